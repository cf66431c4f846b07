package provider

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// finishedPod has a pod run and end; the API server knows it, the cell is there.
func finishedPod(t *testing.T, change ...func(*world)) *world {
	t.Helper()
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyNever))
	for _, c := range change {
		c(w)
	}
	w.report(statusOf(corev1.PodSucceeded))
	w.must() // the status is reported, and only that
	w.wantCell(0, false)
	if w.pod().Status.Phase != corev1.PodSucceeded {
		t.Fatal("the pod's end is not in the API server")
	}
	return w
}

func TestEndedPod(t *testing.T) {
	w := finishedPod(t)
	if c := w.cellReadyOf(); c.Status != corev1.ConditionFalse || c.Reason != v1beta1.ReasonTerminating {
		t.Errorf("nobody corrects an ended pod's condition later: %+v", c)
	}
	w.must()
	w.wantCell(0, true)
	if got := w.keptLog("app"); got != "hello\n" {
		t.Errorf("kept %q", got)
	}
	if asked := strings.Join(w.kubelet.asked, " "); asked != "/kip/v1/podlogs/default_web_"+string(testUID)+"/app/0.log" {
		t.Errorf("asked for %s, want the one container that ran", asked)
	}
	w.terminated()
	w.settle()
	if w.cell() != nil {
		t.Error("an ended pod gets no other cell")
	}
	if w.pod() == nil || w.pod().Status.Phase != corev1.PodSucceeded {
		t.Error("the ended pod stays until somebody deletes it")
	}
	w.wantEvents()

	w.deletePod(0)
	w.settle()
	if w.pod() != nil {
		t.Error("the deleted pod stays")
	}
}

// TestCellLivesUntilTheEndIsWritten: a Kip that dies before it is must not
// find a pod that looks unfinished and has no cell.
func TestCellLivesUntilTheEndIsWritten(t *testing.T) {
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyOnFailure))
	w.deaf = true
	w.report(statusOf(corev1.PodSucceeded))
	w.settle()
	w.wantCell(0, false)

	// Not even the instance's loss makes the pod run again, or fail.
	w.lifecycle(gone)
	w.settle()
	w.wantCell(0, false)
	w.deaf = false
	w.must()
	if phase := w.pod().Status.Phase; phase != corev1.PodSucceeded {
		t.Errorf("the pod is %s", phase)
	}
	w.settle()
	w.wantCell(0, true)
	w.wantEvents("LogsLost")
}

func TestLogsAreTriedAgain(t *testing.T) {
	for name, broken := range map[string]func(*fakeKubelet){
		"not connected":   func(k *fakeKubelet) { k.unreachable = errors.New("the cell is not connected") },
		"connection lost": func(k *fakeKubelet) { k.answer = func(string) (int, string) { return 0, "" } },
		"kubelet restarted": func(k *fakeKubelet) {
			k.answer = func(string) (int, string) { return http.StatusNotFound, "no such pod" }
		},
		"kubelet away": func(k *fakeKubelet) { k.answer = func(string) (int, string) { return http.StatusBadGateway, "away" } },
	} {
		t.Run(name, func(t *testing.T) {
			w := finishedPod(t, func(w *world) { broken(w.kubelet) })
			for range 5 {
				if r := w.must(); r.RequeueAfter != keepRetry {
					t.Fatalf("looks again after %s", r.RequeueAfter)
				}
				w.wantCell(0, false)
				w.clock.Step(keepRetry)
			}
			w.kubelet.unreachable, w.kubelet.answer = nil, nil
			w.must()
			w.wantCell(0, true)
			if got := w.keptLog("app"); got != "hello\n" {
				t.Errorf("kept %q", got)
			}
			w.wantEvents()
		})
	}
}

func TestLogsAreGivenUp(t *testing.T) {
	w := finishedPod(t, func(w *world) { w.kubelet.unreachable = errors.New("the cell is not connected") })
	began := w.clock.Now()
	for w.cell().DeletionTimestamp == nil {
		r := w.must()
		w.clock.Step(r.RequeueAfter)
		if w.clock.Since(began) > keepTimeout+time.Second {
			t.Fatal("the instance costs money for ever")
		}
	}
	if took := w.clock.Since(began); took < keepTimeout {
		t.Errorf("given up after %s", took)
	}
	w.wantEvents("LogsLost")
}

// TestLogsThatTheKubeletDoesNotHave: one container's missing log is no reason
// to lose the others'.
func TestLogsThatTheKubeletDoesNotHave(t *testing.T) {
	ran := func(w *world) {
		w.kubelet.answer = func(path string) (int, string) {
			if strings.Contains(path, "/sidecar") || strings.Contains(path, "previous") || strings.HasSuffix(path, "/0.log") {
				return http.StatusBadRequest, "not found"
			}
			return http.StatusOK, "2026-01-02T03:04:05Z hello\n"
		}
	}
	status := statusOf(corev1.PodFailed)
	status.ContainerStatuses[0].RestartCount = 1
	status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ContainerID: "containerd://before"}

	t.Run("previous run", func(t *testing.T) {
		w := newWorld(t)
		w.running(policy(corev1.RestartPolicyNever))
		ran(w)
		w.report(status)
		w.settle()
		w.wantCell(0, true)
		if got := w.keptLog("app"); got != "hello\n" {
			t.Errorf("kept %q", got)
		}
	})
	t.Run("last run", func(t *testing.T) {
		w := newWorld(t)
		w.running(policy(corev1.RestartPolicyNever))
		ran(w)
		both := *status.DeepCopy()
		both.ContainerStatuses = append(both.ContainerStatuses, corev1.ContainerStatus{Name: "sidecar", ContainerID: "containerd://sidecar"})
		w.report(both)
		w.settle()
		w.wantCell(0, false) // the kubelet may have been started anew just now
		w.clock.Step(refusalPatience)
		w.settle()
		w.wantCell(0, true)
		if got := w.keptLog("app"); got != "hello\n" {
			t.Errorf("kept %q", got)
		}
	})
}

// TestLogsWithoutTheirFile: what the agent does not have, the kubelet is asked for.
func TestLogsWithoutTheirFile(t *testing.T) {
	w := finishedPod(t, func(w *world) {
		w.kubelet.answer = func(path string) (int, string) {
			if path == "/kubelet/containerLogs/default/web/app?timestamps=true" {
				return http.StatusOK, "2026-01-02T03:04:05Z hello\n"
			}
			return http.StatusNotFound, "no such file"
		}
	})
	w.must()
	w.wantCell(0, true)
	if got := w.keptLog("app"); got != "hello\n" {
		t.Errorf("kept %q", got)
	}
}

// TestEndIsNotWaitedFor: the kubelet's word that all is over ends the pod, a
// second before its phase does.
func TestEndIsNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyNever))
	s := statusOf(corev1.PodSucceeded)
	s.Phase = corev1.PodRunning
	ended := s.ContainerStatuses[0]
	s.InitContainerStatuses, s.ContainerStatuses = nil, nil
	for _, c := range w.pod().Spec.InitContainers {
		ended.Name = c.Name
		s.InitContainerStatuses = append(s.InitContainerStatuses, ended)
	}
	for _, c := range w.pod().Spec.Containers {
		ended.Name = c.Name
		s.ContainerStatuses = append(s.ContainerStatuses, ended)
	}
	condition(&s, corev1.ContainersReady).Reason = "PodCompleted"
	w.report(s)
	w.settle()
	if phase := w.pod().Status.Phase; phase != corev1.PodSucceeded {
		t.Errorf("the pod is %s", phase)
	}
	w.wantCell(0, true)
}

// TestNamesInAStatusLeadNowhere: the status is the word of a cell, whose root
// may be anybody.
func TestNamesInAStatusLeadNowhere(t *testing.T) {
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyNever))
	s := statusOf(corev1.PodFailed)
	s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: "../../escaped", ContainerID: "x"})
	w.report(s)
	w.settle()
	w.wantCell(0, true)
	if asked := strings.Join(w.kubelet.asked, " "); strings.Contains(asked, "escaped") {
		t.Errorf("asked for %s", asked)
	}
}

func TestInstanceGoneBeforeItsLogsWereKept(t *testing.T) {
	w := finishedPod(t)
	w.lifecycle(gone)
	w.must()
	w.wantCell(0, true)
	w.wantEvents("LogsLost")
}

func TestFollowersReadToTheEnd(t *testing.T) {
	for name, deleted := range map[string]bool{"ended": false, "ended while being deleted": true} {
		t.Run(name, func(t *testing.T) {
			w := finishedPod(t)
			if deleted {
				w.deletePod(30 * time.Second)
			}
			w.following = true
			if r := w.must(); r.RequeueAfter <= 0 || r.RequeueAfter > 100*time.Millisecond {
				t.Errorf("looks again after %s", r.RequeueAfter)
			}
			w.wantCell(0, false)
			if w.logs.Has(testUID) == deleted {
				t.Error("logs are kept first, unless nobody can ask for them")
			}
			w.following = false
			w.settle()
			w.wantCell(0, true)
		})
	}
	t.Run("one who does not stop", func(t *testing.T) {
		w := finishedPod(t)
		w.following = true
		began := w.clock.Now()
		for w.cell().DeletionTimestamp == nil {
			w.clock.Step(w.must().RequeueAfter)
			if w.clock.Since(began) > 2*time.Second {
				t.Fatal("the instance must be terminating within two seconds")
			}
		}
		if took := w.clock.Since(began); took < followTimeout {
			t.Errorf("cut after %s", took)
		}
	})
}

func TestDeletedPodNobodyHasSeen(t *testing.T) {
	w := newWorld(t)
	w.add(func(p *corev1.Pod) { p.Annotations[annotationPrivateIPOnly] = "no idea" })
	w.must()
	w.deletePod(30 * time.Second)
	w.must()
	if w.pod() != nil {
		t.Error("a pod without a cell has nothing to wait for")
	}
}

func TestDeletedBeforeEnrolment(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.deletePod(30 * time.Second)
	w.must()
	w.wantCell(0, true)
	if w.pod() != nil {
		t.Error("no kubelet has seen the pod: it can go at once")
	}
}

// TestEnrolmentRacesTheDeletion: the cache does not show yet that the cell
// enrolled, so its kubelet may run the pod already.
func TestEnrolmentRacesTheDeletion(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.staleCells = []v1beta1.Cell{*w.cell()}
	w.lifecycle(enrolled)
	w.deletePod(30 * time.Second)
	if r := w.must(); r.RequeueAfter == 0 {
		t.Error("must look again")
	}
	w.wantCell(0, false)
	if w.pod() == nil {
		t.Fatal("the pod is gone while a kubelet may run it")
	}
	w.staleCells = nil
	w.must()
	w.wantCell(0, false)
}

func TestDeletedPodWaitsForItsKubelet(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.deletePod(30 * time.Second)
	if r := w.must(); r.RequeueAfter != 30*time.Second+killSlack {
		t.Errorf("looks again after %s", r.RequeueAfter)
	}
	w.wantCell(0, false)
	if err := w.kip.PodTerminated(t.Context(), w.cell().Name, testUID); err != nil {
		t.Fatal(err)
	}
	w.must()
	w.wantCell(0, true)
	if w.pod() != nil {
		t.Error("the pod stays")
	}
	w.wantEvents()
}

func TestDeletedPodThatEndedFirst(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.deletePod(30 * time.Second)
	w.report(statusOf(corev1.PodFailed))
	w.settle()
	if w.pod() != nil {
		t.Error("the pod stays")
	}
	w.wantCell(0, true)
}

func TestSilentKubelet(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.deletePod(30 * time.Second)
	w.clock.Step(30*time.Second + killSlack - time.Second)
	w.must()
	w.wantCell(0, false)
	w.clock.Step(time.Second)
	w.must()
	w.wantCell(0, true)
	w.wantEvents("CellUnresponsive")
	w.settle()
	if w.pod() == nil {
		t.Fatal("the pod must stay until its instance is gone: its successor must not run beside it")
	}
	w.terminated()
	w.must()
	if w.pod() != nil {
		t.Error("the pod stays")
	}
}

// TestDeletedWhileNoKipRan: the kubelet hears of it only now and has its whole
// grace period, for hooks and signals.
func TestDeletedWhileNoKipRan(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.deletePod(20 * time.Second)
	w.clock.Step(time.Hour)
	w.restart()
	if r := w.must(); r.RequeueAfter != 20*time.Second+killSlack {
		t.Errorf("looks again after %s", r.RequeueAfter)
	}
	w.wantCell(0, false)
	w.clock.Step(20*time.Second + killSlack)
	w.must()
	w.wantCell(0, true)
}

func TestDeletedPodWhoseInstanceIsGone(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.deletePod(30 * time.Second)
	w.lifecycle(gone)
	w.must()
	w.wantCell(0, true)
	w.terminated()
	w.must()
	if w.pod() != nil {
		t.Error("the pod stays")
	}
}

// TestErrorsAreTriedAgain: every call may fail, before or after its effect.
func TestErrorsAreTriedAgain(t *testing.T) {
	for _, call := range []string{"create cell", "delete cell", "delete pod"} {
		for name, lost := range map[string]bool{"refused": false, "answer lost": true} {
			t.Run(call+" "+name, func(t *testing.T) {
				w := newWorld(t)
				once := true
				hook := func(c string) error {
					if c == call && once {
						once = false
						return apierrors.NewInternalError(errors.New("scripted"))
					}
					return nil
				}
				if lost {
					w.lost = hook
				} else {
					w.fail = hook
				}
				w.add()
				if _, err := w.reconcile(); (err != nil) != (call == "create cell") {
					t.Fatalf("first step: %v", err)
				}
				w.settle()
				w.lifecycle(enrolled)
				w.report(statusOf(corev1.PodRunning))
				w.settle()
				w.deletePod(time.Second)
				if err := w.kip.PodTerminated(t.Context(), w.cell().Name, testUID); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					_, _ = w.reconcile()
				}
				w.wantCell(0, true)
				w.terminated()
				for range 5 {
					_, _ = w.reconcile()
				}
				if w.pod() != nil || w.cell() != nil || once {
					t.Errorf("pod %v, cell %v, the call came %t", w.pod(), w.cell(), !once)
				}
			})
		}
	}
}

// TestDeletedPodWhoseCellIsNotInTheCache: another Kip made the cell, and the pod
// may run in it.
func TestDeletedPodWhoseCellIsNotInTheCache(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.deletePod(30 * time.Second)
	w.staleCells = []v1beta1.Cell{}
	if r := w.must(); w.pod() == nil || r.RequeueAfter == 0 {
		t.Fatal("the pod was removed while its cell is there")
	}
	w.staleCells = nil
	w.report(statusOf(corev1.PodSucceeded))
	w.settle()
	w.terminated()
	w.settle()
	if w.pod() != nil {
		t.Error("the pod is still there")
	}
}
