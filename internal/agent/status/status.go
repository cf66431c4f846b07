// Package status is what an agent says about itself and its cell: the answer of
// GET /kip/v1/status, for Kip, for the benchmarks and for whoever debugs a cell.
package status

import (
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/agent/imds"
	"github.com/elotl/kip/v2/internal/agent/process"
)

// Status is the whole answer.
type Status struct {
	// Version is the agent's.
	Version string `json:"version"`
	// Cell and Instance are the cell's name and the instance's ID.
	Cell     string `json:"cell"`
	Instance string `json:"instance"`
	// StartedAt is when the agent started, which in a cell of Kip's own making
	// is when its user space did.
	StartedAt time.Time `json:"startedAt"`
	// Boot are the steps of the start so far, in the order they were reached.
	Boot []Step `json:"boot"`
	// Services are the agent's child processes by name.
	Services map[string]process.State `json:"services"`
	// Memory is what runs beside the pod, the agent first.
	Memory []Memory `json:"memory"`
	// Interruptions are the notices of the cloud that were seen.
	Interruptions []imds.Interruption `json:"interruptions,omitempty"`
}

// Step is a point that was reached.
type Step struct {
	Name string `json:"name"`
	// Milliseconds is how long after StartedAt, by the monotonic clock.
	Milliseconds float64 `json:"ms"`
}

// Steps of the start, in no strict order: most of them run side by side.
const (
	StepUserData          = "user-data"          // user data read and understood
	StepInstance          = "instance"           // own addresses known
	StepListening         = "listening"          // Kip can connect
	StepContainerdStarted = "containerd-started" // its process runs
	StepContainerdReady   = "containerd-ready"   // its socket answers
	StepSandboxImage      = "sandbox-image"      // it was pulled ahead
	StepKubeletStarted    = "kubelet-started"    // its process runs
	StepKubeletRequest    = "kubelet-request"    // its first request to the API server
	StepEnrolled          = "enrolled"           // Kip signed the certificate
	StepGatewayAnswer     = "gateway-answer"     // the first answer of Kip's gateway
)

// Timeline records when steps are reached for the first time. Its methods may be
// called from any goroutine.
type Timeline struct {
	start time.Time

	mu    sync.Mutex
	steps []Step
}

// NewTimeline returns a Timeline that counts from start.
func NewTimeline(start time.Time) *Timeline {
	return &Timeline{start: start}
}

// Start is when the timeline begins.
func (t *Timeline) Start() time.Time { return t.start }

// Reach records the step, unless it was reached before.
func (t *Timeline) Reach(step string) {
	at := time.Since(t.start)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.steps {
		if s.Name == step {
			return
		}
	}
	t.steps = append(t.steps, Step{Name: step, Milliseconds: float64(at.Microseconds()) / 1000})
}

// Steps returns what was reached so far.
func (t *Timeline) Steps() []Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Step{}, t.steps...)
}
