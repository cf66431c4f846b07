package main

import "time"

// step is a point on a pod's way. They are in the order in which they are
// usually reached; what the cell's kubelet does before it sees the pod runs
// beside the agent's enrolment.
type step int

const (
	bound step = iota
	taken
	written
	sent
	launched
	listening
	agentReached
	enrolled
	connected
	kubeletStarted
	kubeletAsked
	sawPod
	sandbox
	started
	running
	ready
)

// meaning says what a step is and how its time is known.
var meaning = map[step]string{
	bound:          "the scheduler gave it a node (watch)",
	taken:          "standby cell taken (Kip's log)",
	written:        "Cell written (Kip's log)",
	sent:           "RunInstances sent (Kip's log)",
	launched:       "RunInstances answered, address known (Kip's log)",
	listening:      "agent listens (agent)",
	agentReached:   "agent reached (Kip's log)",
	enrolled:       "enrolled (Kip's log)",
	connected:      "gateway connected (Kip's log)",
	kubeletStarted: "kubelet's process started (agent)",
	kubeletAsked:   "kubelet's first request (agent)",
	sawPod:         "kubelet sees the pod (its directory)",
	sandbox:        "sandbox made (containerd)",
	started:        "container started (containerd)",
	running:        "Running in the API (watch)",
	ready:          "Ready in the API (watch)",
}

// sample is one pod's start.
type sample struct {
	pod string
	at  map[step]time.Time
	// pull is how long the kubelet waited for the image, 0 if it was there.
	pull time.Duration
	// calm: nothing else kept the processors busy when it began.
	calm bool
}

// withoutPull are the times between two steps less the image's pull, which lies
// between them.
func withoutPull(samples []sample, from, to step) []time.Duration {
	var times []time.Duration
	for _, s := range samples {
		a, b := s.at[from], s.at[to]
		if !a.IsZero() && !b.IsZero() {
			times = append(times, b.Sub(a)-s.pull)
		}
	}
	return times
}

func pulls(samples []sample) []time.Duration {
	var times []time.Duration
	for _, s := range samples {
		times = append(times, s.pull)
	}
	return times
}
