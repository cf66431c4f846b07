package lifecycle

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

// giveUp does what the health monitor does.
func (w *world) giveUp() {
	w.t.Helper()
	w.setStatus(testCell, func(s *v1beta1.CellStatus) {
		s.Failure = &v1beta1.FailureStatus{Reason: v1beta1.FailureSilent, Message: "no sign of life for 90s", Time: metav1.NewTime(w.clock.Now())}
	})
}

// runs has a cell whose pod runs.
func (w *world) runs() {
	w.t.Helper()
	w.add()
	w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
	w.enrol()
	w.podPhase(corev1.PodRunning)
	w.until("running", func() bool { return w.cell().Status.Phase == v1beta1.CellRunning })
}

// reason is the condition's.
func (w *world) reason() string {
	for _, c := range w.cell().Status.Conditions {
		if c.Type == v1beta1.ConditionReady {
			return c.Reason
		}
	}
	return ""
}

// TestGivenUp: the instance of a cell that was given up ends, and counts as gone
// when it is, not before: its pod may run in it until then.
func TestGivenUp(t *testing.T) {
	w := newWorld(t)
	w.runs()
	w.told()
	w.giveUp()
	w.must()
	w.want(v1beta1.CellTerminating, v1beta1.ReasonUnhealthy)
	if !strings.Contains(w.message(), "no sign of life") {
		t.Errorf("the cell says %q", w.message())
	}
	w.until("proven gone", func() bool {
		if w.reason() != v1beta1.ReasonInstanceGone {
			return false
		}
		for _, i := range w.cloud.All() {
			if i.State != cloudprovider.StateTerminated {
				t.Fatalf("it counts as gone and is %s", i.State)
			}
		}
		return true
	})
	w.want(v1beta1.CellTerminating, v1beta1.ReasonInstanceGone)
	if !strings.Contains(w.message(), "no sign of life") {
		t.Errorf("the cell does not say why: %q", w.message())
	}
	var reasons []string
	for _, e := range w.told() {
		reasons = append(reasons, strings.Fields(e)[1])
	}
	if strings.Join(reasons, " ") != "CellUnhealthy InstanceGone" {
		t.Errorf("events: %v", reasons)
	}
	writes := w.writes
	for range 10 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if w.writes != writes {
		t.Error("nothing happens any more, and it is written")
	}
	w.delete()
	w.until("cell gone", func() bool { return w.cell() == nil })
}

// TestGivenUpAndNotTerminated: the cell says what stands against it, and goes on
// trying.
func TestGivenUpAndNotTerminated(t *testing.T) {
	w := newWorld(t)
	w.runs()
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Delete, Err: refusal(cloudprovider.Denied)})
	w.giveUp()
	for range 30 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	w.want(v1beta1.CellTerminating, v1beta1.ReasonDenied)
	if len(w.cloud.Alive()) != 1 {
		t.Fatal("the instance is gone")
	}
	w.cloud.Heal()
	w.until("proven gone", func() bool { return w.reason() == v1beta1.ReasonInstanceGone })
	if len(w.cloud.Alive()) != 0 {
		t.Error("the instance lives")
	}
}

// TestGivenUpAndVanished: what is not found any more is gone when two looks say
// so.
func TestGivenUpAndVanished(t *testing.T) {
	w := newWorld(t)
	w.runs()
	id := w.cell().Status.InstanceID
	w.giveUp()
	w.cloud.Forget(id)
	w.must()
	w.want(v1beta1.CellTerminating, v1beta1.ReasonUnhealthy)
	w.until("proven gone", func() bool { return w.reason() == v1beta1.ReasonInstanceGone })
}
