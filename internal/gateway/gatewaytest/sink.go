package gatewaytest

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/gateway"
)

// Sink is a gateway.Sink that remembers what it was told, and shows new
// statuses in State.
type Sink struct {
	State *State

	mu            sync.Mutex
	err           error
	statuses      []corev1.PodStatus
	terminated    []types.UID
	heartbeats    map[string]int
	troubles      map[string]string
	interruptions map[string][]gateway.Interruption
}

var _ gateway.Sink = (*Sink)(nil)

// Fail makes every further call fail with err, until Fail(nil).
func (s *Sink) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// SetPodStatus implements gateway.Sink.
func (s *Sink) SetPodStatus(_ context.Context, cell string, uid types.UID, status corev1.PodStatus) (*corev1.Pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	pod := s.State.Pod(cell)
	if pod == nil || pod.UID != uid {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), string(uid))
	}
	s.statuses = append(s.statuses, status)
	pod = pod.DeepCopy()
	pod.Status = status
	s.State.SetPod(cell, pod)
	return s.State.Pod(cell), nil
}

// PodTerminated implements gateway.Sink.
func (s *Sink) PodTerminated(_ context.Context, cell string, uid types.UID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.terminated = append(s.terminated, uid)
	s.State.SetPod(cell, nil)
	return nil
}

// Heartbeat implements gateway.Sink.
func (s *Sink) Heartbeat(cell, trouble string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heartbeats == nil {
		s.heartbeats, s.troubles = map[string]int{}, map[string]string{}
	}
	s.heartbeats[cell]++
	s.troubles[cell] = trouble
}

// Interruption implements gateway.Sink.
func (s *Sink) Interruption(_ context.Context, cell string, i gateway.Interruption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.interruptions == nil {
		s.interruptions = map[string][]gateway.Interruption{}
	}
	s.interruptions[cell] = append(s.interruptions[cell], i)
	return nil
}

// Statuses are the pod statuses that were set, oldest first.
func (s *Sink) Statuses() []corev1.PodStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]corev1.PodStatus(nil), s.statuses...)
}

// Terminated are the pods that were reported as terminated.
func (s *Sink) Terminated() []types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]types.UID(nil), s.terminated...)
}

// Trouble is what a cell's kubelet said of itself with its last sign of life.
func (s *Sink) Trouble(cell string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.troubles[cell]
}

// Heartbeats is how many signs of life a cell gave.
func (s *Sink) Heartbeats(cell string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heartbeats[cell]
}

// Interruptions are the notices that a cell passed on.
func (s *Sink) Interruptions(cell string) []gateway.Interruption {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]gateway.Interruption(nil), s.interruptions[cell]...)
}
