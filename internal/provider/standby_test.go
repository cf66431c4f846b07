package provider

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// waitingCells is a Standby with the cells of the API server, as it was at some
// time: those that were taken meanwhile are still among them.
type waitingCells struct {
	w        *world
	cells    []*v1beta1.Cell
	reserved map[types.UID]bool
	full     bool // the namespace has reached its limit
	err      error
}

func (s *waitingCells) Candidates(context.Context, v1beta1.CellSpec) ([]*v1beta1.Cell, error) {
	return s.cells, s.err
}

func (s *waitingCells) Reserve(cell *v1beta1.Cell, _ string) bool {
	if s.full || s.reserved[cell.UID] {
		return false
	}
	s.reserved[cell.UID] = true
	return true
}

func (s *waitingCells) Release(cell *v1beta1.Cell) { delete(s.reserved, cell.UID) }

// standbyWorld has so many standby cells, on enrolled instances.
func standbyWorld(t *testing.T, cells int) (*world, *waitingCells) {
	t.Helper()
	w := newWorld(t)
	s := &waitingCells{w: w, reserved: map[types.UID]bool{}}
	for i := range cells {
		cell := &v1beta1.Cell{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("standby-%d", i), UID: types.UID(fmt.Sprintf("standby-uid-%d", i)),
				Labels: map[string]string{v1beta1.LabelNode: testNode}, Finalizers: []string{v1beta1.Finalizer},
			},
			Spec: v1beta1.CellSpec{NodeName: testNode, Standby: &v1beta1.StandbySpec{Configuration: "c"}, Requirements: v1beta1.Requirements{VolumeGiB: 12}},
		}
		enrolled(cell)
		cell.Status.Phase = v1beta1.CellReady
		if err := w.api.Create(t.Context(), cell); err != nil {
			t.Fatal(err)
		}
		s.cells = append(s.cells, cell)
	}
	w.standby = s
	w.restart()
	return w, s
}

// taken are the cells that have the pod in their specification.
func (w *world) taken() []v1beta1.Cell {
	var taken []v1beta1.Cell
	for _, c := range w.cells() {
		if c.Spec.Pod != nil {
			taken = append(taken, c)
		}
	}
	return taken
}

func TestPodTakesStandbyCell(t *testing.T) {
	w, _ := standbyWorld(t, 2)
	w.add(func(p *corev1.Pod) {
		p.Annotations["pod.elotl.co/healthcheck-healthy-timeout"] = "120"
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("70m")}
	})
	w.must()
	taken := w.taken()
	if len(taken) != 1 || taken[0].Name != "standby-0" || len(w.cells()) != 2 {
		t.Fatalf("taken %+v of %d cells, want the best one and none launched", taken, len(w.cells()))
	}
	cell := taken[0]
	if *cell.Spec.Pod != (v1beta1.PodReference{Namespace: "default", Name: "web", UID: testUID}) || cell.Labels[v1beta1.LabelPodUID] != string(testUID) {
		t.Errorf("the cell is for %+v, labels %v", cell.Spec.Pod, cell.Labels)
	}
	if cell.Status.Standby == nil || cell.Status.Phase != v1beta1.CellBound {
		t.Errorf("the pod is not bound in the same step: %+v", cell.Status)
	}
	if s := cell.Spec; s.Standby == nil || s.Requirements.CPU.String() != "70m" || s.Requirements.VolumeGiB != 12 || *s.Instance.HealthyTimeoutSeconds != 120 {
		t.Errorf("what the pod wishes and what the instance is: %+v", s)
	}
	if got, ok := w.kip.Cell(cell.Name); !ok || got.PodUID != testUID || w.kip.Pod(cell.Name) == nil {
		t.Errorf("its kubelet is shown %+v, %t", got, ok)
	}
	if got, ok := w.kip.Cell("standby-1"); !ok || got.PodUID != "" || w.kip.Pod("standby-1") != nil {
		t.Errorf("the other's kubelet is shown %+v, %t", got, ok)
	}
	w.report(statusOf(corev1.PodRunning))
	w.settle()
	if p := w.pod().Status.Phase; p != corev1.PodRunning || len(w.taken()) != 1 {
		t.Errorf("the pod is %s, in %d cells", p, len(w.taken()))
	}
}

// TestPodTakesStoppedCell: it is settled that the cell has the pod, and starting
// the instance is the lifecycle controller's.
func TestPodTakesStoppedCell(t *testing.T) {
	w, s := standbyWorld(t, 1)
	cell := s.cells[0]
	cell.Spec.Standby.Stopped = true
	if err := w.api.Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	now := metav1.NewTime(w.clock.Now())
	cell.Status.Phase, cell.Status.Enrolment, cell.Status.Stop = v1beta1.CellStopped, nil, &v1beta1.StopStatus{Time: now, Stopped: &now}
	if err := w.api.Status().Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	w.add()
	w.must()
	taken := w.taken()
	if len(taken) != 1 || taken[0].Status.Standby == nil || taken[0].Status.Phase != v1beta1.CellStopped || !taken[0].KeptStopped() {
		t.Fatalf("taken: %+v", taken)
	}
	w.settle()
	ready := condition(&w.pod().Status, v1beta1.PodConditionCellReady)
	if ready == nil || ready.Status != corev1.ConditionFalse || ready.Reason != v1beta1.ReasonLaunching {
		t.Errorf("the pod's condition is %+v", ready)
	}
}

func TestNoStandbyCell(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		change func(*waitingCells)
	}{
		"none fits":      {"it is launched as ever", func(s *waitingCells) { s.cells = nil }},
		"not known":      {"the cloud's trouble is the launch's to tell", func(s *waitingCells) { s.err = errors.New("no answer") }},
		"limit":          {"the launch waits and says why", func(s *waitingCells) { s.full = true }},
		"all just taken": {"by pods of which the cache does not know", func(s *waitingCells) { s.othersTake() }},
		"all just ended": {"as the configuration changed", func(s *waitingCells) { s.end() }},
		"all in others' hands": {"other workers are about to take them", func(s *waitingCells) {
			for _, c := range s.cells {
				s.reserved[c.UID] = true
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := standbyWorld(t, 2)
			pod := w.add()
			tc.change(s)
			w.must()
			for _, c := range w.cells() {
				if c.Name == CellName(pod, 0) {
					return
				}
			}
			t.Errorf("%s: no cell was made among %d", tc.reason, len(w.cells()))
		})
	}
}

// othersTake gives the cells to another pod, unnoticed.
func (s *waitingCells) othersTake() {
	for _, c := range s.cells {
		c = c.DeepCopy()
		c.Spec.Pod = &v1beta1.PodReference{Namespace: "default", Name: "other", UID: "other"}
		if err := s.w.api.Update(s.w.t.Context(), c); err != nil {
			s.w.t.Fatal(err)
		}
	}
}

func (s *waitingCells) end() {
	for _, c := range s.cells {
		c = c.DeepCopy()
		if err := s.w.api.Delete(s.w.t.Context(), c); err != nil {
			s.w.t.Fatal(err)
		}
		s.w.remove(must(s.w.read(c.Name)))
	}
}

func must[T any](v T, ok bool) T {
	if !ok {
		panic("it is not there")
	}
	return v
}

func (w *world) read(name string) (*v1beta1.Cell, bool) {
	for _, c := range w.cells() {
		if c.Name == name {
			return &c, true
		}
	}
	return nil, false
}

// TestCacheLagsBehindTheClaim: a second look at the pod takes no second cell.
func TestCacheLagsBehindTheClaim(t *testing.T) {
	w, _ := standbyWorld(t, 3)
	w.add()
	before := w.cells()
	w.must()
	w.staleCells = before[:0]
	for range 3 {
		w.must()
	}
	w.staleCells = nil
	w.settle()
	if taken := w.taken(); len(taken) != 1 || len(w.cells()) != 3 {
		t.Errorf("%d cells of %d were taken", len(taken), len(w.cells()))
	}
}

// TestAnotherKipWasFaster: of two cells for a pod one is given up, and never
// shown the pod.
func TestAnotherKipWasFaster(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		other  func(*v1beta1.Cell)
	}{
		"taken":    {"another standby cell, not bound yet", func(*v1beta1.Cell) {}},
		"bound":    {"another standby cell, whose kubelet may know", func(c *v1beta1.Cell) { c.Status.Standby = &v1beta1.StandbyStatus{PodBound: metav1.Now()} }},
		"launched": {"a cell of its own", func(c *v1beta1.Cell) { c.Spec.Standby = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := standbyWorld(t, 2)
			pod := w.add()
			other := s.cells[1].DeepCopy()
			other.Spec.Pod = &v1beta1.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
			other.Labels[v1beta1.LabelPodUID] = string(pod.UID)
			tc.other(other)
			status := other.Status
			if err := w.api.Update(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			other.Status = status
			if err := w.api.Status().Update(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			w.staleCells = []v1beta1.Cell{} // our cache does not know
			w.must()
			first := must(w.read("standby-0"))
			if first.DeletionTimestamp == nil || first.Status.Standby != nil || w.kip.Pod("standby-0") != nil {
				t.Errorf("%s: the second cell is kept: %+v", tc.reason, first.Status.Standby)
			}
			w.staleCells = nil
			w.settle()
			second := must(w.read("standby-1"))
			if second.DeletionTimestamp != nil || !second.Settled() || w.kip.Pod("standby-1") == nil {
				t.Errorf("%s: the first cell does not have the pod", tc.reason)
			}
		})
	}
}

// TestLaunchFindsAClaim: a Kip whose cache lags launches for a pod that another
// has just given a standby cell.
func TestLaunchFindsAClaim(t *testing.T) {
	w, s := standbyWorld(t, 1)
	pod := w.add()
	w.must()
	s.cells = nil
	w.restart() // another Kip, which knows nothing
	w.staleCells = []v1beta1.Cell{}
	w.must()
	if own, ok := w.read(CellName(pod, 0)); ok && own.DeletionTimestamp == nil {
		t.Error("it is launched although the pod has a cell")
	}
	w.staleCells = nil
	w.settle()
	if cell := must(w.read("standby-0")); cell.DeletionTimestamp != nil || w.kip.Pod("standby-0") == nil {
		t.Error("the pod lost its standby cell")
	}
}

// TestUnboundCell: what happens to a pod between the claim and its settlement.
func TestUnboundCell(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		then   func(*world)
		ended  bool // the cell
		gone   bool // the pod
	}{
		"nothing": {reason: "the next Kip binds it", then: func(*world) {}},
		"deleted": {reason: "no kubelet has to agree", then: func(w *world) { w.deletePod(time.Minute) }, ended: true, gone: true},
		"interrupted": {reason: "it is not worth starting there", then: func(w *world) {
			w.change(must(w.read("standby-0")), func(c *v1beta1.Cell) {
				c.Status.Interruption = &v1beta1.InterruptionStatus{Kind: v1beta1.SpotInterruption, Deadline: metav1.NewTime(w.clock.Now().Add(time.Minute)), Noticed: metav1.NewTime(w.clock.Now())}
			})
		}, ended: true},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := standbyWorld(t, 1)
			w.add()
			w.fail = func(call string) error {
				if call == "patch status of cell" {
					return errKilled
				}
				return nil
			}
			if _, err := w.reconcile(); !errors.Is(err, errKilled) {
				t.Fatalf("it was bound: %v", err)
			}
			if got, ok := w.kip.Cell("standby-0"); !ok || got.PodUID != "" || w.kip.Pod("standby-0") != nil {
				t.Errorf("its kubelet is shown %+v, %t, before it is settled", got, ok)
			}
			if _, err := w.kip.SetPodStatus(t.Context(), "standby-0", testUID, statusOf(corev1.PodRunning)); !apierrors.IsNotFound(err) {
				t.Errorf("its kubelet may report of the pod: %v", err)
			}
			w.fail, s.cells = nil, nil
			w.restart()
			tc.then(w)
			w.settle()
			cell := must(w.read("standby-0"))
			if (cell.DeletionTimestamp != nil) != tc.ended || cell.Settled() == tc.ended || (w.pod() == nil) != tc.gone {
				t.Errorf("%s: ended %t, settled %t, pod gone %t", tc.reason, cell.DeletionTimestamp != nil, cell.Settled(), w.pod() == nil)
			}
		})
	}
}

// TestStandbyCrashes kills Kip at every call by which a pod takes a standby
// cell, before and after the call has its effect: the pod ends up in one cell,
// and none but that is ever shown it.
func TestStandbyCrashes(t *testing.T) {
	run := func(t *testing.T, at int, after bool) (calls int) {
		w, s := standbyWorld(t, 2)
		w.add()
		dead := false
		w.fail = func(string) error {
			if calls++; dead || calls == at && !after {
				dead = true
				return errKilled
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
		shown := map[string]bool{}
		for range 8 {
			_, _ = w.reconcile()
			for _, c := range w.cells() {
				if w.kip.Pod(c.Name) != nil {
					shown[c.Name] = true
				}
			}
			if dead {
				dead, at = false, 0
				clear(s.reserved)
				w.restart()
			}
		}
		taken := w.taken()
		if len(shown) != 1 || len(taken) != 1 || !taken[0].Settled() || !shown[taken[0].Name] || taken[0].DeletionTimestamp != nil {
			t.Errorf("shown to %v, taken %d", shown, len(taken))
		}
		return calls
	}
	total := run(t, 0, false)
	for at := 1; at <= total; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("call %d after=%t", at, after), func(t *testing.T) { run(t, at, after) })
		}
	}
	t.Logf("%d calls", total)
}

// TestReplacementTakesStandbyCell: what takes an interrupted pod's place need
// not boot, and waits until the pod has ended.
func TestReplacementTakesStandbyCell(t *testing.T) {
	w, _ := standbyWorld(t, 2)
	w.add()
	w.must()
	w.report(statusOf(corev1.PodRunning))
	w.settle()
	w.change(must(w.read("standby-0")), func(c *v1beta1.Cell) {
		c.Status.Interruption = &v1beta1.InterruptionStatus{Kind: v1beta1.SpotInterruption, Deadline: metav1.NewTime(w.clock.Now().Add(2 * time.Minute)), Noticed: metav1.NewTime(w.clock.Now())}
	})
	w.settle()
	next := must(w.read("standby-1"))
	if next.Spec.Attempt != 1 || !next.Settled() {
		t.Fatalf("attempt %d, settled %t", next.Spec.Attempt, next.Settled())
	}
	if _, shown := w.kip.Cell("standby-1"); shown {
		t.Error("it is shown a pod that still runs")
	}
	w.change(must(w.read("standby-0")), func(c *v1beta1.Cell) { now := metav1.Now(); c.Status.Interruption.PodEnded = &now })
	w.settle()
	if got, ok := w.kip.Cell("standby-1"); !ok || got.PodUID != testUID {
		t.Errorf("it is not shown the pod that ended elsewhere: %+v, %t", got, ok)
	}
	if first := must(w.read("standby-0")); first.DeletionTimestamp == nil {
		t.Error("the interrupted cell stays")
	}
}
