package lifecycle

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

// keptStopped makes a Cell one of a pool that is kept stopped.
func keptStopped(c *v1beta1.Cell) {
	c.Spec.Pod, c.Spec.Standby = nil, &v1beta1.StandbySpec{Configuration: "c", Stopped: true}
}

// stoppedWorld has a Cell that is to be kept stopped, and whose agent listens as
// soon as it is launched.
func stoppedWorld(t *testing.T) *world {
	w := newWorld(t)
	w.listens = true
	for i := range w.offerings {
		w.offerings[i].Cost.Volume = 0.001
	}
	w.cloud.StoppingFor = 3 * time.Second
	return w
}

// stop waits until the Cell's instance is stopped.
func (w *world) stop() {
	w.t.Helper()
	w.add(keptStopped)
	w.until("it is stopped", func() bool { c := w.cell(); return c.KeptStopped() && c.Status.Stop.Stopped != nil })
}

// take gives the Cell the pod, as the provider does.
func (w *world) take() {
	w.t.Helper()
	cell := w.cell()
	cell.Spec.Pod = &v1beta1.PodReference{Namespace: "default", Name: "web", UID: "pod-uid"}
	if err := w.api.Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
	cell.Status.Standby = &v1beta1.StandbyStatus{PodBound: metav1.NewTime(w.clock.Now())}
	if err := w.api.Status().Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
}

// enrols says whether the connection controller would enrol the cell now.
func (w *world) enrols(cell *v1beta1.Cell) bool {
	return cell.Spec.Standby == nil ||
		!cell.StopsFirst() && !cell.KeptStopped() && w.instance().State == cloudprovider.StateRunning
}

// instance is the only one.
func (w *world) instance() cloudprovider.Instance {
	w.t.Helper()
	all := w.cloud.All()
	if len(all) != 1 {
		w.t.Fatalf("%d instances were launched", len(all))
	}
	return all[0]
}

func TestKeptStopped(t *testing.T) {
	w := stoppedWorld(t)
	w.listens = false
	w.add(keptStopped)
	w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
	for range 100 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.cloud.Calls(cloudprovidertest.Stop); n != 0 {
		t.Fatal("it is stopped before it has booted")
	}
	w.listens = true
	listened := w.clock.Now()
	w.until("it is to be stopped", func() bool { return w.cell().KeptStopped() })
	if d := w.clock.Since(listened); d < settleTime {
		t.Errorf("it had %s to settle", d)
	}
	w.want(v1beta1.CellStopped, v1beta1.ReasonStopped)
	w.until("it is stopped", func() bool { return w.cell().Status.Stop.Stopped != nil })
	cell := w.cell()
	if l := cell.Status.Launch; l.HourlyUSD != "0.001" || cell.Status.Stop.RunningUSD != "0.005" {
		t.Errorf("it costs %s USD, and %s when it runs", l.HourlyUSD, cell.Status.Stop.RunningUSD)
	}
	w.writes = 0
	for range 100 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.cloud.Calls(cloudprovidertest.Stop); n != 1 || w.writes != 0 {
		t.Errorf("while nothing happens it was asked %d times to stop, and written %d times", n, w.writes)
	}

	w.take()
	w.until("it is started", func() bool { return w.instance().State == cloudprovider.StateRunning })
	cell = w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
	if l := cell.Status.Launch; l.HourlyUSD != "0.005" {
		t.Errorf("it costs %s USD", l.HourlyUSD)
	}
	w.enrol()
	w.podPhase(corev1.PodRunning)
	w.until("running", func() bool { return w.cell().Status.Phase == v1beta1.CellRunning })
	w.delete()
	w.until("gone", func() bool { return w.cell() == nil })
	if n := w.cloud.Calls(cloudprovidertest.Start); n != 1 {
		t.Errorf("it was started %d times", n)
	}
}

func TestCannotBeStopped(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		prepare func(*world)
		want    string // of the message; empty: it is stopped all the same
	}{
		"denied":      {"Kip need not have the right", refuse(cloudprovidertest.Stop, cloudprovider.Denied, 0), "cannot be stopped"},
		"unsupported": {"nor has every instance the ability", refuse(cloudprovidertest.Stop, cloudprovider.Unsupported, 0), "cannot be stopped"},
		"throttled":   {"it is asked again", refuse(cloudprovidertest.Stop, cloudprovider.Throttled, 5), ""},
		"no answer":   {"it is asked again", refuse(cloudprovidertest.Stop, cloudprovider.Transient, 5), ""},
		"answer lost": {"it has stopped", func(w *world) {
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Stop, AnswerLost: true})
		}, ""},
		"hangs":  {"its disk may be in use for ever", func(w *world) { w.cloud.StoppingFor = time.Hour }, "did not stop within"},
		"killed": {"by somebody else", func(w *world) { w.cloud.StoppingFor = time.Hour; w.killWhen(cloudprovider.StateStopping) }, "terminated"},
	} {
		t.Run(name, func(t *testing.T) {
			w := stoppedWorld(t)
			tc.prepare(w)
			w.add(keptStopped)
			if tc.want == "" {
				w.until("it is stopped", func() bool { c := w.cell(); return c.KeptStopped() && c.Status.Stop.Stopped != nil })
				return
			}
			w.lost(tc.want)
		})
	}
}

func TestCannotBeStarted(t *testing.T) {
	for name, tc := range map[string]struct {
		reason    string
		prepare   func(*world)
		want      string // of the message; empty: it starts
		launched  bool   // others of its kind can be launched
		startable bool
	}{
		"sold out":  {"it is launched elsewhere", func(w *world) { w.cloud.SoldOut = func(v1beta1.LaunchStatus) bool { return true } }, "cannot be started again", false, false},
		"denied":    {"Kip need not have the right", refuse(cloudprovidertest.Start, cloudprovider.Denied, 0), "cannot be started again", true, false},
		"quota":     {"stopped ones do not count", refuse(cloudprovidertest.Start, cloudprovider.VCPUQuotaExceeded, 0), "cannot be started again", true, false},
		"throttled": {"it is asked again", refuse(cloudprovidertest.Start, cloudprovider.Throttled, 3), "", true, true},
		"no answer": {"it is asked again", refuse(cloudprovidertest.Start, cloudprovider.Transient, 3), "", true, true},
		"answer lost": {"it has started", func(w *world) {
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Start, AnswerLost: true, Times: 1})
		}, "", true, true},
		"stops again": {"what EC2 does when its volume cannot be had", func(w *world) { w.stopWhen(cloudprovider.StatePending) }, "stopped again", true, false},
		"terminated":  {"by somebody else", func(w *world) { w.killWhen(cloudprovider.StatePending) }, "terminated", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := stoppedWorld(t)
			w.stop()
			tc.prepare(w)
			w.take()
			if tc.want == "" {
				w.until("it runs", func() bool { return w.instance().State == cloudprovider.StateRunning })
				w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
			} else {
				w.lost(tc.want)
			}
			if got := w.kip.Startable(w.cell()); got != tc.startable {
				t.Errorf("%s: others are tried: %t", tc.reason, got)
			}
			_, next, err := w.kip.Offerings(t.Context(), w.cell().Spec)
			if err != nil {
				t.Fatal(err)
			}
			if first := next != nil && next.Key() == offeringOf(w.cell().Status.Launch); first != tc.launched {
				t.Errorf("%s: it would be launched: %t", tc.reason, first)
			}
		})
	}
}

// TestStartedByHand: nobody pays for an instance that is to be stopped.
func TestStartedByHand(t *testing.T) {
	w := stoppedWorld(t)
	w.stop()
	if err := w.cloud.Provider("test").Start(t.Context(), w.instance().ID); err != nil {
		t.Fatal(err)
	}
	w.until("it is stopped again", func() bool {
		return w.cloud.Calls(cloudprovidertest.Stop) == 2 && w.instance().State == cloudprovider.StateStopped
	})
	w.want(v1beta1.CellStopped, v1beta1.ReasonStopped)
}

// TestStartedByAnotherKip: one whose cache is old does not stop it again.
func TestStartedByAnotherKip(t *testing.T) {
	w := stoppedWorld(t)
	w.stop()
	old := w.cell()
	w.take()
	w.until("it runs", func() bool { return w.instance().State == cloudprovider.StateRunning })
	w.cached = func(string) (*v1beta1.Cell, bool) { return old, true }
	w.boot(&mortal{})
	for range 100 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.cloud.Calls(cloudprovidertest.Stop); n != 1 || w.instance().State != cloudprovider.StateRunning {
		t.Errorf("it was stopped %d times", n)
	}
}

// TestDoesNotComeUpAgain: the time to boot counts from the start.
func TestDoesNotComeUpAgain(t *testing.T) {
	w := stoppedWorld(t)
	w.stop()
	w.clock.Step(24 * time.Hour)
	w.take()
	begun := w.clock.Now()
	w.until("it is given up", func() bool { return w.cell().Status.Phase == v1beta1.CellTerminating })
	if d := w.clock.Since(begun); d < DefaultBootTimeout || d > DefaultBootTimeout+30*time.Second {
		t.Errorf("it had %s", d)
	}
	w.lost("did not come up")
}

// TestStartWaitsForRoom: what is stopped costs its volume, and to start it is a
// launch.
func TestStartWaitsForRoom(t *testing.T) {
	w := stoppedWorld(t)
	usd := int64(5000)
	w.limits.Caps = limits.Caps{HourlyMicroUSD: &usd}
	w.boot(&mortal{})
	w.stop()
	if reached := w.kip.limits.Room(&v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, 4000); reached != nil {
		t.Errorf("a stopped instance counts as one that runs: %s", reached.Message)
	}
	other := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	if reached := w.kip.limits.Claim(other, 2000); reached != nil {
		t.Fatal(reached.Message)
	}
	w.take()
	for range 10 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	w.want(v1beta1.CellStopped, v1beta1.ReasonLimitReached)
	if n := w.cloud.Calls(cloudprovidertest.Start); n != 0 {
		t.Fatal("it was started")
	}
	w.kip.limits.Forget("other")
	w.clock.Step(limitRecheck)
	w.until("it runs", func() bool { return w.instance().State == cloudprovider.StateRunning })
}

// lost waits until the Cell is of no use and its instance gone, and checks what
// the user is told.
func (w *world) lost(message string) {
	w.t.Helper()
	gone := func() bool {
		c := meta.FindStatusCondition(w.cell().Status.Conditions, v1beta1.ConditionReady)
		return c != nil && c.Reason == v1beta1.ReasonInstanceGone && len(w.cloud.Alive()) == 0
	}
	for deadline := w.clock.Now().Add(stopTimeout + time.Minute); !gone() && w.clock.Now().Before(deadline); {
		if err := w.tick(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.want(v1beta1.CellTerminating, v1beta1.ReasonInstanceGone)
	if !strings.Contains(w.message(), message) {
		w.t.Errorf("the message is %q, want %q in it", w.message(), message)
	}
}

func refuse(m cloudprovidertest.Method, kind cloudprovider.Kind, times int) func(*world) {
	return func(w *world) { w.cloud.Script(cloudprovidertest.Fault{Method: m, Err: refusal(kind), Times: times}) }
}

// killWhen and stopWhen do so, from outside, as soon as the instance is in the
// state.
func (w *world) killWhen(state cloudprovider.State) {
	w.on = map[cloudprovider.State]func(string){state: func(id string) { w.cloud.Kill(id, "Client.UserInitiatedShutdown: terminated") }}
}

func (w *world) stopWhen(state cloudprovider.State) {
	w.on = map[cloudprovider.State]func(string){state: func(id string) { w.cloud.Stop(id, "Client.InternalError") }}
}
