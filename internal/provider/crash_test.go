package provider

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

var errKilled = errors.New("killed")

// life is what happens to one pod, until everything of it is gone. The steps
// are those of others than Kip; each is done once, and Kip works after each.
type life struct {
	policy corev1.RestartPolicy
	steps  []func(*world)
	// owned: a controller replaces the pod.
	owned bool
	// cells is how many cells the pod may have had.
	cells int
	// kept: the pod's logs must be kept before its cell is ended.
	kept bool
}

// TestCrashes kills Kip at every call that changes something, before and after
// the call has its effect. Its successor remembers nothing.
func TestCrashes(t *testing.T) {
	launched := func(w *world) { w.lifecycle(enrolled) }
	reports := func(phase corev1.PodPhase) func(*world) { return func(w *world) { w.kubeletSays(phase) } }
	terminated := func(w *world) {
		for _, cell := range w.cells() {
			if cell.DeletionTimestamp != nil {
				w.remove(&cell)
			}
		}
	}
	deleted := func(w *world) {
		if w.pod() != nil {
			w.deletePod(time.Second)
		}
	}
	// Twice: a Kip that has just started gives the kubelet its time again.
	patience := func(w *world) { w.clock.Step(time.Minute) }
	kubeletEnds := func(w *world) { w.kubelet.ended = true; w.kubeletRepeats() }
	interrupted := func(w *world) {
		w.kubelet.notice = &gateway.Interruption{Kind: gateway.SpotInterruption, Action: "terminate", Time: w.clock.Now().Add(2 * time.Minute)}
	}
	agentRepeats := func(*world) {} // as after every step
	launchedAhead := func(w *world) {
		if next := w.attempt(1); next == nil {
			w.t.Error("no cell was made ahead")
		} else {
			w.change(next, enrolled)
		}
	}
	kubeletStops := func(w *world) { w.kubelet.ended = true; w.kubeletSays(corev1.PodFailed) }
	never, always := corev1.RestartPolicyNever, corev1.RestartPolicyAlways
	lives := map[string]life{
		"a job": {policy: never, cells: 1, kept: true,
			steps: []func(*world){launched, reports(corev1.PodRunning), reports(corev1.PodSucceeded), terminated, deleted}},
		"deleted while it runs": {policy: always, cells: 1,
			steps: []func(*world){launched, reports(corev1.PodRunning), deleted, kubeletEnds, terminated}},
		"deleted before it runs": {policy: always, cells: 1, steps: []func(*world){deleted, terminated}},
		"a silent kubelet": {policy: always, cells: 1,
			steps: []func(*world){launched, reports(corev1.PodRunning), deleted, patience, patience, terminated}},
		"lost, runs again": {policy: always, cells: 2,
			steps: []func(*world){launched, reports(corev1.PodRunning), func(w *world) { w.lifecycle(gone) }, terminated, launched, reports(corev1.PodRunning), deleted, kubeletEnds, terminated}},
		"lost, fails": {policy: never, cells: 1,
			steps: []func(*world){launched, reports(corev1.PodRunning), func(w *world) { w.lifecycle(gone) }, terminated, deleted}},
		"removed by force": {policy: always, cells: 1,
			steps: []func(*world){launched, reports(corev1.PodRunning), func(w *world) { _ = w.api.Delete(w.t.Context(), w.pod()) }, terminated}},
		"interrupted, runs again": {policy: always, cells: 2,
			steps: []func(*world){launched, reports(corev1.PodRunning), interrupted, agentRepeats, launchedAhead, kubeletStops, terminated, reports(corev1.PodRunning), deleted, kubeletEnds, terminated}},
		"interrupted, replaced by its controller": {policy: always, cells: 1, owned: true,
			steps: []func(*world){launched, reports(corev1.PodRunning), interrupted, kubeletEnds, terminated}},
		"interrupted, fails": {policy: never, cells: 1, kept: true,
			steps: []func(*world){launched, reports(corev1.PodRunning), interrupted, kubeletStops, terminated, deleted}},
		"interrupted, deleted meanwhile": {policy: always, cells: 2,
			steps: []func(*world){launched, reports(corev1.PodRunning), interrupted, agentRepeats, launchedAhead, deleted, kubeletEnds, terminated, terminated}},
		"interrupted, a silent kubelet": {policy: always, cells: 2,
			steps: []func(*world){launched, reports(corev1.PodRunning), interrupted, agentRepeats, launchedAhead, patience, patience, terminated, reports(corev1.PodRunning), deleted, kubeletEnds, terminated}},
	}
	for name, l := range lives {
		t.Run(name, func(t *testing.T) {
			total := l.live(t, 0, false)
			for at := 1; at <= total; at++ {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprintf("call %d after=%t", at, after), func(t *testing.T) { l.live(t, at, after) })
				}
			}
			t.Logf("%d calls", total)
		})
	}
}

// live lives the life with a Kip that dies at its nth call, 0 never, and
// returns how many calls there were.
func (l life) live(t *testing.T, at int, after bool) int {
	w := newWorld(t)
	calls, dead := 0, false
	made := map[string]bool{}
	w.fail = func(call string) error {
		if calls++; dead || calls == at && !after {
			dead = true
			return errKilled
		}
		if call == "delete cell" && l.kept && !w.logs.Has(testUID) {
			t.Error("the cell is ended before its logs are kept")
		}
		return nil
	}
	w.lost = func(string) error {
		if calls == at {
			dead = true
			return errKilled
		}
		return nil
	}
	work := func() {
		for range 6 {
			_, _ = w.reconcile()
			if dead {
				dead, at = false, 0
				w.restart()
				w.clock.Step(time.Second)
			}
			holding := w.holding()
			for _, c := range w.cells() {
				made[string(c.UID)] = true
				ahead := c.Spec.Attempt > holding.Spec.Attempt
				if ahead && holding.Status.Interruption == nil {
					t.Fatalf("%d cells of one pod", len(w.cells()))
				}
				if _, shown := w.kip.Cell(c.Name); ahead && shown {
					t.Fatal("another cell is shown a pod that may still run")
				}
			}
		}
	}
	w.add(policy(l.policy), func(p *corev1.Pod) {
		if l.owned {
			p.OwnerReferences = controlled
		}
	})
	work()
	for _, step := range l.steps {
		step(w)
		work()
		w.kubeletRepeats()
		work()
	}
	if w.pod() != nil || len(w.cells()) > 0 {
		t.Errorf("left over: pod %t, %d cells", w.pod() != nil, len(w.cells()))
	}
	if len(made) > l.cells {
		t.Errorf("%d cells were made, want %d", len(made), l.cells)
	}
	return calls
}
