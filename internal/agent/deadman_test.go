package agent

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// podList is an answer of the kubelet.
func podList(items string) string {
	return `{"kind": "PodList", "apiVersion": "v1", "items": [` + items + `]}`
}

func TestDeadMan(t *testing.T) {
	const (
		none    = ""
		running = `{"metadata": {"name": "web"}, "status": {"phase": "Running"}}`
		waiting = `{"metadata": {"name": "web"}, "status": {"phase": "Pending"}}`
		over    = `{"metadata": {"name": "job"}, "status": {"phase": "Succeeded"}}`
		deleted = `{"metadata": {"name": "web", "deletionTimestamp": "2026-01-02T03:04:05Z"}, "status": {"phase": "Running"}}`
	)
	tests := map[string]struct {
		reason string
		// contact is how long ago Kip was connected, at the time that is asked;
		// nil: at the beginning, and never again.
		contact    func(since time.Duration) time.Duration
		pods, runs string
		broken     bool
		off        bool
	}{
		"NoPod":          {reason: "a standby cell, or one that never had a pod", pods: none, runs: none, off: true},
		"Runs":           {reason: "an outage of Kip ends no pod, however long it is", pods: running, runs: running},
		"Unknown":        {reason: "a kubelet that started again does not know its pod, and the pod runs", pods: none, runs: `{"metadata": {"name": "web"}}`},
		"BetweenRuns":    {reason: "its container is about to start again", pods: running, runs: none},
		"NotStartedYet":  {reason: "it waits for its image, say", pods: waiting, runs: none},
		"Over":           {reason: "Kip would have ended the instance", pods: over, runs: none, off: true},
		"Deleted":        {reason: "it has ended, and nobody confirmed it", pods: deleted, runs: none, off: true},
		"DeletedAndRuns": {reason: "it has its grace period", pods: deleted, runs: deleted},
		"NoAnswer":       {reason: "a pod may run of which nobody tells", broken: true},
		"Connected":      {reason: "Kip ends what it does not need", contact: func(time.Duration) time.Duration { return 0 }},
		"BackInTime": {
			reason:  "the time is counted from the last connection",
			contact: func(since time.Duration) time.Duration { return since % (20 * time.Hour) },
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answers := map[string]string{}
				if !tc.broken {
					answers["/pods"], answers["/runningpods/"] = podList(tc.pods), podList(tc.runs)
				}
				begin := time.Now()
				var off []time.Duration
				d := &deadMan{
					after: 24 * time.Hour, interval: deadManInterval,
					lastContact: func() time.Time {
						if tc.contact == nil {
							return begin
						}
						return time.Now().Add(-tc.contact(time.Since(begin)))
					},
					kubelet:  &http.Client{Transport: kubeletOf(answers)},
					powerOff: func(string) { off = append(off, time.Since(begin)) },
					logger:   slog.New(slog.DiscardHandler),
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { d.watch(ctx) })
				time.Sleep(72 * time.Hour)
				cancel()
				wg.Wait()
				if len(off) > 1 || (len(off) == 1) != tc.off {
					t.Fatalf("%s: it was switched off %d times", tc.reason, len(off))
				}
				if tc.off && (off[0] < 24*time.Hour || off[0] > 24*time.Hour+2*deadManInterval) {
					t.Errorf("%s: it was switched off after %s", tc.reason, off[0])
				}
			})
		})
	}
}
