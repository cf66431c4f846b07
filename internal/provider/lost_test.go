package provider

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func TestLostCell(t *testing.T) {
	ways := map[string]struct {
		reason string
		happen func(*world)
	}{
		"instance gone": {"the cloud took it", func(w *world) { w.lifecycle(gone) }},
		"cell deleted":  {"a user did it", func(w *world) { w.deleteCell() }},
	}
	for way, happen := range ways {
		for _, p := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure} {
			t.Run(way+" "+string(p), func(t *testing.T) {
				w := newWorld(t)
				w.running(policy(p))
				happen.happen(w)
				w.settle()
				w.wantCell(0, true)
				s := w.pod().Status
				if ready := condition(&s, corev1.PodReady); ready.Status != corev1.ConditionFalse || ready.Reason != "CellLost" {
					t.Errorf("nothing of the pod runs, but it is %+v", ready)
				}
				if s.Phase != corev1.PodRunning || s.ContainerStatuses[0].State.Waiting == nil || s.ContainerStatuses[0].Ready {
					t.Errorf("status %+v", s)
				}
				// A last report from the lost cell does not make it Ready again.
				if w.cell().Status.Phase != "Terminating" {
					w.report(statusOf(corev1.PodRunning))
				}
				w.settle()
				s = w.pod().Status
				if condition(&s, corev1.PodReady).Status != corev1.ConditionFalse {
					t.Error("the pod is Ready without a cell")
				}
				w.terminated()
				w.settle()
				cell := w.wantCell(1, false)
				w.lifecycle(enrolled)
				w.report(statusOf(corev1.PodRunning))
				w.settle()
				s = w.pod().Status
				if condition(&s, corev1.PodReady).Status != corev1.ConditionTrue {
					t.Errorf("the pod on cell %s is not Ready", cell.Name)
				}
			})
		}
		t.Run(way+" Never", func(t *testing.T) {
			w := newWorld(t)
			w.running(policy(corev1.RestartPolicyNever))
			happen.happen(w)
			w.settle()
			if w.cell().Status.Phase != "Terminating" && w.pod().Status.Phase == corev1.PodFailed {
				t.Error("failed without proof that the instance is gone")
			}
			if w.cell().DeletionTimestamp != nil {
				w.terminated()
			}
			w.settle()
			s := w.pod().Status
			if s.Phase != corev1.PodFailed || s.Reason != "CellLost" || !strings.Contains(s.Message, "is gone") {
				t.Errorf("status %+v", s)
			}
			if c := w.cellReadyOf(); c.Status != corev1.ConditionFalse || c.Reason == v1beta1.ReasonPending {
				t.Errorf("CellReady %+v", c)
			}
			if term := s.ContainerStatuses[0].State.Terminated; term == nil || term.ExitCode != 137 {
				t.Errorf("container %+v", s.ContainerStatuses[0])
			}
			w.settle()
			if cell := w.cell(); cell != nil && cell.DeletionTimestamp == nil {
				t.Error("the cell of the failed pod stays")
			}
		})
	}
}

func TestCellLostBeforeAnythingRan(t *testing.T) {
	w := newWorld(t)
	w.add(policy(corev1.RestartPolicyNever))
	w.must()
	w.lifecycle(enrolled)
	w.report(statusOf(corev1.PodPending))
	w.settle()
	w.lifecycle(gone)
	w.settle()
	w.wantCell(0, true)
	w.terminated()
	w.settle()
	w.wantCell(1, false)
}

// TestCellLostWhenAnInitContainerHadRun: restartPolicy Never forbids to run
// anything of the pod twice.
func TestCellLostWhenAnInitContainerHadRun(t *testing.T) {
	w := newWorld(t)
	w.add(policy(corev1.RestartPolicyNever))
	w.must()
	w.lifecycle(enrolled)
	s := statusOf(corev1.PodPending)
	s.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", ContainerID: "containerd://init"}}
	w.report(s)
	w.settle()
	w.lifecycle(gone)
	w.settle()
	if got := w.pod().Status; got.Phase != corev1.PodFailed {
		t.Errorf("status %+v", got)
	}
}

// TestLastWordOfALostCell: what the kubelet said before its instance went
// counts, whichever is noticed first.
func TestLastWordOfALostCell(t *testing.T) {
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		w := newWorld(t)
		w.running(policy(corev1.RestartPolicyOnFailure))
		w.deleteCell()
		w.must()
		w.report(statusOf(phase))
		w.settle()
		w.terminated()
		w.settle()
		if got := w.pod().Status; got.Phase != phase || got.Reason == "CellLost" {
			t.Errorf("status %+v, want %s", got, phase)
		}
		if w.cell() != nil {
			t.Error("a pod that ended runs again")
		}
	}
}

// TestRestart: from every state in the API server a Kip that remembers nothing
// ends in the same place.
func TestRestart(t *testing.T) {
	never, always := policy(corev1.RestartPolicyNever), policy(corev1.RestartPolicyAlways)
	for name, tc := range map[string]struct {
		reason string
		before func(*world)
		check  func(*testing.T, *world)
	}{
		"cell pending": {"it is the same cell", func(w *world) { w.add(); w.must() },
			func(t *testing.T, w *world) { w.wantCell(0, false) }},
		"running": {"nothing is touched", func(w *world) { w.running(always) },
			func(t *testing.T, w *world) {
				w.wantCell(0, false)
				if s := w.pod().Status; s.Phase != corev1.PodRunning || condition(&s, corev1.PodReady).Status != corev1.ConditionTrue {
					t.Errorf("status %+v", s)
				}
			}},
		"ended, logs not kept": {"they are kept now", func(w *world) { w.running(never); w.report(statusOf(corev1.PodSucceeded)); w.must() },
			func(t *testing.T, w *world) {
				w.wantCell(0, true)
				if got := w.keptLog("app"); got != "hello\n" {
					t.Errorf("kept %q", got)
				}
			}},
		"ended, cell gone": {"no other is made", func(w *world) {
			w.running(never)
			w.report(statusOf(corev1.PodSucceeded))
			w.settle()
			w.terminated()
		}, func(t *testing.T, w *world) {
			if w.cell() != nil {
				t.Error("a cell for an ended pod")
			}
		}},
		"cell lost, being terminated": {"another cell when it is gone", func(w *world) { w.running(always); w.lifecycle(gone); w.settle() },
			func(t *testing.T, w *world) {
				w.wantCell(0, true)
				w.terminated()
				w.settle()
				if cell := w.cell(); cell == nil || cell.DeletionTimestamp != nil {
					t.Error("the pod has no cell")
				}
			}},
		"cell lost and gone": {"another cell", func(w *world) { w.running(always); w.lifecycle(gone); w.settle(); w.terminated() },
			func(t *testing.T, w *world) {
				if cell := w.cell(); cell == nil || cell.DeletionTimestamp != nil {
					t.Error("the pod has no cell")
				}
				if s := w.pod().Status; condition(&s, corev1.PodReady).Status != corev1.ConditionFalse {
					t.Error("Ready without a cell")
				}
			}},
		"Never, cell gone": {"the pod failed", func(w *world) { w.running(never); w.deleteCell(); w.settle(); w.terminated() },
			func(t *testing.T, w *world) {
				if got := w.pod().Status; got.Phase != corev1.PodFailed || w.cell() != nil {
					t.Errorf("status %+v, cell %v", got, w.cell())
				}
			}},
		"deleted, cell being terminated": {"the pod goes with the instance", func(w *world) {
			w.running(always)
			w.deletePod(0)
			w.clock.Step(killSlack)
			w.must()
		}, func(t *testing.T, w *world) {
			w.wantCell(0, true)
			if w.pod() == nil {
				t.Fatal("the pod is gone before its instance")
			}
			w.terminated()
			w.settle()
			if w.pod() != nil {
				t.Error("the pod stays")
			}
		}},
		"deleted, kubelet had said that it ended": {"it says so again", func(w *world) {
			w.running(always)
			w.deletePod(0)
			if err := w.kip.PodTerminated(w.t.Context(), w.cell().Name, testUID); err != nil {
				w.t.Fatal(err)
			}
		}, func(t *testing.T, w *world) {
			w.wantCell(0, false)
			if err := w.kip.PodTerminated(t.Context(), w.cell().Name, testUID); err != nil {
				t.Fatal(err)
			}
			w.settle()
			if w.pod() != nil {
				t.Error("the pod stays")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.before(w)
			w.restart()
			w.settle()
			tc.check(t, w)
		})
	}
}

// TestVerdictsBeforeTheLibraryListens are not lost: all pods are looked at when
// it does.
func TestVerdictsBeforeTheLibraryListens(t *testing.T) {
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyNever))
	w.deleteCell()
	w.settle()
	w.terminated()
	w.restart()
	w.kip.notify = nil
	w.settle()
	if w.pod().Status.Phase != corev1.PodRunning {
		t.Fatal("somebody wrote")
	}
	queue := w.takePokes()
	w.kip.NotifyPods(t.Context(), w.written)
	if got := queue.drain(); len(got) != 1 || got[0] != testPod {
		t.Fatalf("poked %v", got)
	}
	w.settle()
	if w.pod().Status.Phase != corev1.PodFailed {
		t.Error("the verdict was lost")
	}
}

// TestVerdictAndLastWordAtOnce: the kubelet's report came while the loss was
// being judged.
func TestVerdictAndLastWordAtOnce(t *testing.T) {
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyNever))
	pod := w.pod()
	w.report(statusOf(corev1.PodSucceeded))
	w.kip.setVerdict(pod, corev1.PodStatus{Phase: corev1.PodFailed})
	w.settle()
	if got := w.pod().Status.Phase; got != corev1.PodSucceeded {
		t.Errorf("the pod is %s", got)
	}
}
