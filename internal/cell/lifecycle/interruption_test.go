package lifecycle

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// interrupted is what the provider writes when the cloud takes the instance.
func (w *world) interrupted() *v1beta1.InterruptionStatus {
	return &v1beta1.InterruptionStatus{
		Kind: "spot-interruption", Action: "terminate",
		Deadline: metav1.NewTime(w.clock.Now().Add(2 * time.Minute)), Noticed: metav1.NewTime(w.clock.Now()),
	}
}

func (w *world) setStatus(name string, change func(*v1beta1.CellStatus)) {
	w.t.Helper()
	cell := &v1beta1.Cell{}
	if err := w.api.Get(w.t.Context(), types.NamespacedName{Name: name}, cell); err != nil {
		w.t.Fatal(err)
	}
	change(&cell.Status)
	if err := w.api.Status().Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
}

// TestInterrupted: the cell says that its pod is being ended, and launches
// avoid the offering that the cloud lacks, if it is one of spot.
func TestInterrupted(t *testing.T) {
	for _, ct := range []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand} {
		t.Run(string(ct), func(t *testing.T) {
			w := newWorld(t)
			for i := range w.offerings {
				w.offerings[i].CapacityType = ct
			}
			w.add(func(c *v1beta1.Cell) { c.Spec.Requirements.CapacityTypes = []v1beta1.CapacityType{ct} })
			w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
			w.enrol()
			w.podPhase(corev1.PodRunning)
			w.until("running", func() bool { return w.cell().Status.Phase == v1beta1.CellRunning })
			w.setStatus(testCell, func(s *v1beta1.CellStatus) { s.Interruption = w.interrupted() })
			w.until("draining", func() bool { return w.cell().Status.Phase == v1beta1.CellDraining })
			w.want(v1beta1.CellDraining, v1beta1.ReasonDraining)
			if !strings.Contains(w.message(), "spot-interruption") {
				t.Errorf("the cell says %q", w.message())
			}
			launch := w.cell().Status.Launch
			key := instancetype.Key{InstanceType: launch.InstanceType, Zone: launch.Zone, CapacityType: launch.CapacityType}
			until, avoided := w.kip.unavailable.Until(key, w.clock.Now())
			if avoided != (ct == v1beta1.Spot) {
				t.Errorf("the offering is avoided: %t", avoided)
			}
			w.until("later", func() bool { return !w.clock.Now().Before(until) })
			if _, avoided := w.kip.unavailable.Until(key, w.clock.Now()); avoided {
				t.Error("the offering is avoided for as long as the cell is there")
			}
		})
	}
}

// TestLaunchedAhead: a cell whose pod may still run in an interrupted one has
// no pod yet.
func TestLaunchedAhead(t *testing.T) {
	w := newWorld(t)
	old := w.add().DeepCopy()
	old.Name, old.UID, old.ResourceVersion = "cell-0", "old", ""
	if err := w.api.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	w.setStatus("cell-0", func(s *v1beta1.CellStatus) { s.Interruption = w.interrupted() })
	cell := w.cell()
	cell.Spec.Attempt = 1
	if err := w.api.Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
	w.enrol()
	w.podPhase(corev1.PodRunning)
	w.until("ready", func() bool { return w.cell().Status.Phase == v1beta1.CellReady })
	if r := w.must(); r.RequeueAfter == 0 || r.RequeueAfter > aheadRecheck {
		t.Errorf("nothing would tell that the pod has ended in the other cell: %+v", r)
	}
	w.setStatus("cell-0", func(s *v1beta1.CellStatus) { s.Interruption.PodEnded = &metav1.Time{Time: w.clock.Now()} })
	w.until("running", func() bool { return w.cell().Status.Phase == v1beta1.CellRunning })
}
