package provider

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
)

// controlled is what a pod of a Deployment carries.
var controlled = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: new(true)}}

func owned(pod *corev1.Pod) { pod.OwnerReferences = controlled }

func graceOf(seconds int64) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.TerminationGracePeriodSeconds = &seconds }
}

// interrupt is the agent's notice that EC2 takes the holding cell's instance.
func (w *world) interrupt(after time.Duration) {
	w.t.Helper()
	err := w.kip.Interruption(w.t.Context(), w.holding().Name, gateway.Interruption{
		Kind: gateway.SpotInterruption, Action: "terminate", Time: w.clock.Now().Add(after),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) disruptionTarget() corev1.PodCondition {
	w.t.Helper()
	if c := condition(&w.pod().Status, corev1.DisruptionTarget); c != nil {
		return *c
	}
	return corev1.PodCondition{}
}

// on is a cell of another instance than enrolled makes.
func on(ip string) func(*v1beta1.Cell) {
	return func(c *v1beta1.Cell) {
		enrolled(c)
		c.Status.PrimaryIP = ip
	}
}

// from is a kubelet's status as it comes: with its cell's address, and with
// what the kubelet was told of the interruption.
func from(ip string, phase corev1.PodPhase) corev1.PodStatus {
	s := statusOf(phase)
	s.HostIP = ip
	s.Conditions = append(s.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reasonInterruption})
	return s
}

// TestInterruptedPodOfAController is deleted with its grace period, and the
// condition by which controllers judge its end is there before.
func TestInterruptedPodOfAController(t *testing.T) {
	w := newWorld(t)
	w.running(owned, graceOf(40))
	w.told()
	w.interrupt(2 * time.Minute)
	w.wantEvents("CellInterruption")
	w.deaf = true
	w.settle()
	if len(w.deletions) != 0 {
		t.Fatal("the pod is deleted before its condition says why")
	}
	w.deaf = false
	w.settle()
	c := w.disruptionTarget()
	if c.Status != corev1.ConditionTrue || c.Reason != "CellInterrupted" || !strings.Contains(c.Message, "spot-interruption") {
		t.Errorf("condition %+v", c)
	}
	if got := w.deletions[testUID]; got.grace != 40 {
		t.Errorf("grace period %d, want the pod's own", got.grace)
	}
	w.settle()
	w.wantCell(0, false)
	if n := strings.Count(strings.Join(w.calls, "|"), "delete pod"); n != 1 {
		t.Errorf("the pod was deleted %d times", n)
	}
	if err := w.kip.PodTerminated(t.Context(), w.cell().Name, testUID); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.wantCell(0, true)
	if w.pod() != nil {
		t.Error("the pod's object stays though nothing of it is left")
	}
}

func TestGracePeriodFitsTheDeadline(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		own    *int64
		left   time.Duration
		want   time.Duration
	}{
		"default":         {"Kubernetes' default", nil, 2 * time.Minute, 30 * time.Second},
		"own":             {"it fits", new(int64(100)), 2 * time.Minute, 100 * time.Second},
		"too long":        {"what is left, less the margin", new(int64(3600)), 2 * time.Minute, 115 * time.Second},
		"fraction":        {"grace periods are whole seconds", new(int64(60)), 20*time.Second + time.Millisecond, 15 * time.Second},
		"late":            {"a kubelet takes no less", new(int64(60)), 3 * time.Second, time.Second},
		"already over":    {"the instance may live a little longer", new(int64(60)), -time.Minute, time.Second},
		"no grace period": {"a second does no harm", new(int64(0)), 2 * time.Minute, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod(func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = tc.own })
			if got := gracePeriod(pod, tc.left); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.reason, got, tc.want)
			}
		})
	}
}

// TestInterruptedPodRunsAgain: the kubelet is shown a deletion, the next cell
// is launched meanwhile and sees the pod when it has ended in the first.
func TestInterruptedPodRunsAgain(t *testing.T) {
	for _, p := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure} {
		for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
			t.Run(string(p)+" "+string(phase), func(t *testing.T) {
				w := newWorld(t)
				w.running(policy(p), graceOf(40))
				w.report(from("10.0.0.4", corev1.PodRunning))
				first := w.cell().Name
				w.interrupt(2 * time.Minute)
				w.settle()

				shown := w.kip.Pod(first)
				if shown.DeletionTimestamp == nil || *shown.DeletionGracePeriodSeconds != 40 || !shown.DeletionTimestamp.Equal(&metav1.Time{Time: w.clock.Now().Add(40 * time.Second)}) {
					t.Fatalf("the kubelet is not told to end the pod: %v", shown.DeletionTimestamp)
				}
				if w.pod().DeletionTimestamp != nil || len(w.deletions) != 0 {
					t.Error("the pod's object is deleted")
				}
				if w.disruptionTarget().Status != corev1.ConditionTrue {
					t.Errorf("condition %+v", w.disruptionTarget())
				}

				next := w.attempt(1)
				if next == nil {
					t.Fatal("no other instance is launched meanwhile")
				}
				w.change(next, on("10.0.0.6"))
				if _, ok := w.kip.Cell(next.Name); ok {
					t.Error("the next cell sees a pod that still runs")
				}
				changed, cancel := w.kip.Subscribe(next.Name)
				defer cancel()
				if _, name := w.kip.CellOfPod(t.Context(), testPod.Namespace, testPod.Name); name != first {
					t.Errorf("logs are read from %s", name)
				}
				if holders, err := w.kip.Holders(t.Context()); err != nil || holders[testUID] != first {
					t.Errorf("the pod's metrics are taken from %v, %v", holders, err)
				}

				w.report(from("10.0.0.4", corev1.PodRunning))
				w.settle()
				s := w.pod().Status
				if condition(&s, corev1.PodReady).Status != corev1.ConditionFalse {
					t.Error("a pod that ends still gets traffic")
				}
				w.report(from("10.0.0.4", phase))
				w.settle()
				if got := w.kip.Pod(first).Status; got.Phase != phase || got.ContainerStatuses[0].State.Terminated == nil {
					t.Errorf("the kubelet is shown %s, and would wait until it is shown the %s that it said", got.Phase, phase)
				}
				if got := w.pod().Status; got.Phase != corev1.PodRunning || got.ContainerStatuses[0].State.Waiting == nil || got.ContainerStatuses[0].LastTerminationState.Terminated == nil {
					t.Errorf("status %+v: it is to run again", got)
				}
				if err := w.kip.PodTerminated(t.Context(), first, testUID); err != nil {
					t.Fatal(err)
				}
				if _, ok := w.kip.Cell(next.Name); !ok || !poked(changed) {
					t.Error("the next cell does not learn that the pod is its now")
				}
				if _, err := w.kip.SetPodStatus(t.Context(), first, testUID, from("10.0.0.4", phase)); err == nil {
					t.Error("the first cell still speaks for the pod")
				}
				w.settle()
				if w.attempt(0).DeletionTimestamp == nil {
					t.Error("the first instance is paid for")
				}
				if shown := w.kip.Pod(next.Name); shown.DeletionTimestamp != nil {
					t.Error("the next kubelet is told to end the pod")
				}
				if _, err := w.kip.SetPodStatus(t.Context(), next.Name, testUID, from("10.0.0.6", corev1.PodRunning)); err != nil {
					t.Fatal(err)
				}
				w.settle()
				s = w.pod().Status
				if condition(&s, corev1.PodReady).Status != corev1.ConditionTrue || w.disruptionTarget().Status != corev1.ConditionFalse {
					t.Errorf("conditions %+v", s.Conditions)
				}
			})
		}
	}
}

// TestStoppedByAnotherKip: the kubelet was shown the deletion by the Kip before
// this one, whose cache has not heard of the interruption. What the kubelet says
// of the pod's end is not taken for the pod's own.
func TestStoppedByAnotherKip(t *testing.T) {
	for _, p := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure} {
		for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
			t.Run(string(p)+" "+string(phase), func(t *testing.T) {
				w := newWorld(t)
				w.running(policy(p))
				before := w.cells()
				w.interrupt(2 * time.Minute)
				w.settle()
				w.restart()
				w.staleCells = before
				w.report(from("10.0.0.4", phase))
				w.must()
				w.staleCells = nil
				w.settle()
				if now := w.pod().Status; now.Phase != corev1.PodRunning || now.ContainerStatuses[0].State.Waiting == nil {
					t.Errorf("the pod is %s, with %+v", now.Phase, now.ContainerStatuses[0].State)
				}
			})
		}
	}
}

// TestContainersOfAnEarlierCell are not a kubelet's own: it would take one that
// ended for done. This holds whatever Kip remembers.
func TestContainersOfAnEarlierCell(t *testing.T) {
	w := newWorld(t)
	w.running(policy(corev1.RestartPolicyOnFailure))
	s := from("10.0.0.4", corev1.PodRunning)
	s.ContainerStatuses = statusOf(corev1.PodSucceeded).ContainerStatuses
	w.interrupt(2 * time.Minute)
	w.report(s)
	w.settle()
	if err := w.kip.PodTerminated(t.Context(), w.holding().Name, testUID); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.settle()
	w.change(w.attempt(1), on("10.0.0.6"))
	shown := w.kip.Pod(w.attempt(1).Name)
	if c := shown.Status.ContainerStatuses[0]; c.State.Waiting == nil || c.LastTerminationState.Terminated == nil {
		t.Errorf("container %+v", c)
	}
	if w.pod().Status.ContainerStatuses[0].State.Terminated == nil {
		t.Error("the test is worth nothing: the API server never had the ended container")
	}
}

func TestInterruptedPodThatMayNotRunAgain(t *testing.T) {
	early, late := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)), metav1.NewTime(time.Date(2026, 1, 2, 3, 5, 0, 0, time.UTC))
	for name, tc := range map[string]struct {
		reason   string
		policy   corev1.RestartPolicy
		phase    corev1.PodPhase
		own      string // the kubelet's own reason
		finished metav1.Time
		want     corev1.PodPhase
		why      string
	}{
		"stopped":           {"an exit code of 0 is not work done", corev1.RestartPolicyNever, corev1.PodSucceeded, "", late, corev1.PodFailed, "CellInterrupted"},
		"killed":            {"it did not end in time", corev1.RestartPolicyNever, corev1.PodFailed, "", late, corev1.PodFailed, "CellInterrupted"},
		"done before":       {"the notice came too late to matter", corev1.RestartPolicyNever, corev1.PodSucceeded, "", early, corev1.PodSucceeded, ""},
		"failed before":     {"likewise", corev1.RestartPolicyNever, corev1.PodFailed, "", early, corev1.PodFailed, ""},
		"deadline exceeded": {"the kubelet ended it for good", corev1.RestartPolicyNever, corev1.PodFailed, "DeadlineExceeded", late, corev1.PodFailed, "DeadlineExceeded"},
		"work done before":  {"nothing is left to run again", corev1.RestartPolicyOnFailure, corev1.PodSucceeded, "", early, corev1.PodSucceeded, ""},
		"evicted":           {"policy Always does not change that", corev1.RestartPolicyAlways, corev1.PodFailed, "Evicted", late, corev1.PodFailed, "Evicted"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.running(policy(tc.policy))
			w.interrupt(2 * time.Minute)
			w.settle()
			if ahead := w.attempt(1); (ahead != nil) != (tc.policy != corev1.RestartPolicyNever) {
				t.Errorf("next cell %v", ahead)
			}
			s := statusOf(tc.phase)
			s.Reason = tc.own
			s.ContainerStatuses[0].State.Terminated.FinishedAt = tc.finished
			w.deaf = true
			w.report(s)
			w.settle()
			if err := w.kip.PodTerminated(t.Context(), w.holding().Name, testUID); err == nil {
				t.Error("the kubelet may forget an end that is not on record")
			}
			w.deaf = false
			w.settle()
			if got := w.pod().Status; got.Phase != tc.want || got.Reason != tc.why {
				t.Errorf("%s: %s %q, want %s %q", tc.reason, got.Phase, got.Reason, tc.want, tc.why)
			}
			if w.disruptionTarget().Status != corev1.ConditionTrue {
				t.Errorf("condition %+v", w.disruptionTarget())
			}
			if err := w.kip.PodTerminated(t.Context(), w.holding().Name, testUID); err != nil {
				t.Error(err)
			}
			for _, c := range w.cells() {
				if c.DeletionTimestamp == nil {
					t.Errorf("cell of attempt %d stays", c.Spec.Attempt)
				}
			}
			if w.keptLog("app") == "" {
				t.Error("no logs were kept")
			}
		})
	}
}

// TestLogsOfAStoppedPodAreHeld: the kubelet removes them with the pod, and they
// are all that is left of one that does not run again.
func TestLogsOfAStoppedPodAreHeld(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		policy  corev1.RestartPolicy
		answers []int // of the agent; the last one stands
		want    int   // times that it is asked
	}{
		"never":      {"it is asked once", corev1.RestartPolicyNever, []int{204}, 1},
		"runs again": {"nobody reads what it wrote before", corev1.RestartPolicyAlways, []int{204}, 0},
		"fails":      {"it is asked again", corev1.RestartPolicyNever, []int{0, 500, 204}, 3},
		"older":      {"an agent that does not know how is not asked for ever", corev1.RestartPolicyNever, []int{404}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.running(policy(tc.policy))
			w.kubelet.asked = nil
			answers := tc.answers
			w.kubelet.answer = func(string) (int, string) {
				code := answers[0]
				answers = answers[min(1, len(answers)-1):]
				return code, ""
			}
			w.interrupt(2 * time.Minute)
			for range 5 {
				if r := w.must(); len(answers) > 1 && r.RequeueAfter > keepRetry {
					t.Errorf("%s: next time after %s", tc.reason, r.RequeueAfter)
				}
			}
			asked := 0
			for _, path := range w.kubelet.asked {
				if path == "/kip/v1/podlogs/hold" {
					asked++
				}
			}
			if asked != tc.want {
				t.Errorf("%s: asked %d times, want %d", tc.reason, asked, tc.want)
			}
		})
	}
}

// TestInterruptionIsOnRecord before it is acknowledged, and once.
func TestInterruptionIsOnRecord(t *testing.T) {
	w := newWorld(t)
	w.running(owned)
	notice := gateway.Interruption{Kind: gateway.SpotInterruption, Action: "terminate", Time: w.clock.Now().Add(2 * time.Minute)}
	w.fail = func(call string) error {
		if call == "patch status of cell" {
			return errKilled
		}
		return nil
	}
	name := w.cell().Name
	if err := w.kip.Interruption(t.Context(), name, notice); err == nil {
		t.Fatal("acknowledged what is not on record")
	}
	w.fail = nil
	w.told()
	if err := w.kip.Interruption(t.Context(), name, notice); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if err := w.kip.Interruption(t.Context(), name, notice); err != nil {
		t.Fatal(err)
	}
	w.wantEvents()
	w.settle()
	if _, ok := w.deletions[testUID]; !ok {
		t.Error("a Kip that did not hear the notice itself does nothing")
	}
	i := w.cell().Status.Interruption
	if i.Kind != "spot-interruption" || i.Action != "terminate" || !i.Deadline.Time.Equal(notice.Time) || !i.Noticed.Time.Equal(w.clock.Now()) {
		t.Errorf("recorded %+v", i)
	}
}

func TestRebalanceRecommendation(t *testing.T) {
	w := newWorld(t)
	w.running(owned)
	w.told()
	if err := w.kip.Interruption(t.Context(), w.cell().Name, gateway.Interruption{Kind: gateway.RebalanceRecommendation, Time: w.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	w.wantEvents("CellInterruption")
	w.settle()
	if w.cell().Status.Interruption != nil || len(w.deletions) != 0 || w.disruptionTarget().Status != "" {
		t.Error("a recommendation is no interruption")
	}
}

// TestNextCellIsLost, or interrupted too, before it had the pod.
func TestNextCellIsLost(t *testing.T) {
	for name, happen := range map[string]func(*v1beta1.Cell){
		"lost": gone,
		"interrupted": func(c *v1beta1.Cell) {
			c.Status.Interruption = &v1beta1.InterruptionStatus{Kind: "spot-interruption", Deadline: metav1.Now(), Noticed: metav1.Now()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.running()
			w.interrupt(2 * time.Minute)
			w.settle()
			w.change(w.attempt(1), on("10.0.0.6"))
			w.change(w.attempt(1), happen)
			w.settle()
			next := w.attempt(1)
			if next.DeletionTimestamp == nil {
				t.Fatal("it stays")
			}
			w.remove(next)
			w.settle()
			if next = w.attempt(1); next == nil || next.DeletionTimestamp != nil {
				t.Error("there is no other")
			}
			if w.attempt(0).DeletionTimestamp != nil {
				t.Error("the cell that has the pod was ended")
			}
		})
	}
}

// TestInstanceGoesBeforeThePodEnded: the next cell has to wait for the proof.
func TestInstanceGoesBeforeThePodEnded(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.interrupt(2 * time.Minute)
	w.settle()
	next := w.attempt(1)
	w.change(next, on("10.0.0.6"))
	w.change(w.attempt(0), gone)
	w.settle()
	first := w.attempt(0)
	if first.DeletionTimestamp == nil || w.attempt(1).DeletionTimestamp != nil {
		t.Fatal("the first cell is ended, the next one stays")
	}
	if _, ok := w.kip.Cell(next.Name); ok {
		t.Error("the next cell sees the pod before the first is proven gone")
	}
	w.remove(first)
	w.settle()
	if got, ok := w.kip.Cell(next.Name); !ok || got.PodUID != testUID {
		t.Error("the next cell does not see the pod")
	}
	if len(w.cells()) != 1 {
		t.Errorf("%d cells", len(w.cells()))
	}
}

// TestInterruptedBeforeItEnrolled: nobody has to be stopped.
func TestInterruptedBeforeItEnrolled(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.lifecycle(enrolled)
	w.lifecycle(func(c *v1beta1.Cell) { c.Status.Enrolment = nil })
	w.interrupt(2 * time.Minute)
	w.settle()
	w.wantCell(0, true)
	w.terminated()
	w.settle()
	w.wantCell(1, false)
}

// TestNextCellRunsTheImages: its architecture is one that the pod's images are
// made for, as the first one's was.
func TestNextCellRunsTheImages(t *testing.T) {
	w := newWorld(t)
	w.kip.Defaults.Architectures = []string{"amd64", "arm64"}
	w.images = []string{"arm64"}
	w.running()
	w.interrupt(2 * time.Minute)
	w.asking = true
	if r := w.must(); r.RequeueAfter != imagesRecheck || w.attempt(1) != nil {
		t.Errorf("not known yet: %+v, cell %v", r, w.attempt(1))
	}
	w.asking = false
	w.settle()
	if got := w.attempt(1).Spec.Requirements.Architectures; len(got) != 1 || got[0] != "arm64" {
		t.Errorf("architectures %v", got)
	}
}
