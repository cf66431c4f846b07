package provider

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var errKilled = errors.New("killed")

// life is what happens to one pod, until everything of it is gone. The steps
// are those of others than Kip; each is done once, and Kip works after each.
type life struct {
	policy corev1.RestartPolicy
	steps  []func(*world)
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
		if cell := w.cell(); cell != nil && cell.DeletionTimestamp != nil {
			w.terminated()
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
	lives := map[string]life{
		"a job": {corev1.RestartPolicyNever, []func(*world){launched, reports(corev1.PodRunning), reports(corev1.PodSucceeded), terminated, deleted}, 1, true},
		"deleted while it runs": {corev1.RestartPolicyAlways,
			[]func(*world){launched, reports(corev1.PodRunning), deleted, kubeletEnds, terminated}, 1, false},
		"deleted before it runs": {corev1.RestartPolicyAlways, []func(*world){deleted, terminated}, 1, false},
		"a silent kubelet": {corev1.RestartPolicyAlways,
			[]func(*world){launched, reports(corev1.PodRunning), deleted, patience, patience, terminated}, 1, false},
		"lost, runs again": {corev1.RestartPolicyAlways,
			[]func(*world){launched, reports(corev1.PodRunning), func(w *world) { w.lifecycle(gone) }, terminated, launched, reports(corev1.PodRunning), deleted, kubeletEnds, terminated}, 2, false},
		"lost, fails": {corev1.RestartPolicyNever,
			[]func(*world){launched, reports(corev1.PodRunning), func(w *world) { w.lifecycle(gone) }, terminated, deleted}, 1, false},
		"removed by force": {corev1.RestartPolicyAlways,
			[]func(*world){launched, reports(corev1.PodRunning), func(w *world) { _ = w.api.Delete(w.t.Context(), w.pod()) }, terminated}, 1, false},
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
			alive := 0
			for _, c := range w.cells() {
				made[string(c.UID)] = true
				if c.DeletionTimestamp == nil {
					alive++
				}
			}
			if alive > 1 || len(w.cells()) > 1 {
				t.Fatalf("%d cells of one pod, %d of them not ending", len(w.cells()), alive)
			}
		}
	}
	w.add(policy(l.policy))
	work()
	for _, step := range l.steps {
		step(w)
		work()
		w.kubeletRepeats()
		work()
	}
	if w.pod() != nil || w.cell() != nil {
		t.Errorf("left over: pod %t, cell %t", w.pod() != nil, w.cell() != nil)
	}
	if len(made) > l.cells {
		t.Errorf("%d cells were made, want %d", len(made), l.cells)
	}
	return calls
}
