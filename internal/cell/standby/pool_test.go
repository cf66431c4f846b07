package standby

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func TestFillsThePool(t *testing.T) {
	w := newWorld(t)
	w.must()
	cells := w.cells()
	if len(cells) != 3 {
		t.Fatalf("%d cells, want 3", len(cells))
	}
	var zones []string
	for _, c := range cells {
		if !c.Waiting() || c.Spec.NodeName != testNode || c.Labels[v1beta1.LabelNode] != testNode || !controllerutil.ContainsFinalizer(&c, v1beta1.Finalizer) {
			t.Errorf("no cell that waits: %+v", c)
		}
		if diff := cmp.Diff([]string{"t3.nano"}, c.Spec.Requirements.InstanceTypes); diff != "" || c.Spec.Standby.Configuration != "first" {
			t.Errorf("asks for %s, configuration %s", diff, c.Spec.Standby.Configuration)
		}
		if !strings.HasPrefix(c.Name, "standby-t3-nano-") || len(c.Name) > 63 {
			t.Errorf("the name is %s", c.Name)
		}
		zones = append(zones, c.Spec.Requirements.Zones...)
	}
	slices.Sort(zones)
	if diff := cmp.Diff(w.zones, zones); diff != "" {
		t.Errorf("not spread over zones: %s", diff)
	}
	w.must()
	if n := len(w.cells()); n != 3 {
		t.Errorf("%d cells after another look", n)
	}
}

// TestTakenCellIsReplacedAtOnce: and nothing here ever touches it again.
func TestTakenCellIsReplacedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.must()
	w.up()
	taken := w.cells()[0]
	w.take(&taken)
	w.must()
	if all, waiting := len(w.cells()), len(w.waiting()); all != 4 || waiting != 3 {
		t.Errorf("%d cells, of which %d wait; want 4 and 3", all, waiting)
	}
	w.configuration = "second"
	w.restart(pool())
	w.must()
	if cells := w.cells(); len(cells) != 1 || cells[0].Name != taken.Name {
		t.Errorf("%d cells are left, want the pod's", len(cells))
	}
}

func TestEndsWhatIsOfNoUse(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		then   func(*world)
		kept   int // of the first three
		all    int
	}{
		"nothing":       {"a look changes nothing", func(*world) {}, 3, 3},
		"configuration": {"a pod gets what is configured now", func(w *world) { w.configuration = "second" }, 0, 3},
		"fewer":         {"what is not wanted costs money", func(w *world) { p := nanos; p.Count = 1; w.restart(pool(p)) }, 1, 1},
		"more":          {"those that are there stay", func(w *world) { p := nanos; p.Count = 5; w.restart(pool(p)) }, 3, 5},
		"none":          {"the key was removed", func(w *world) { w.restart(pool()) }, 0, 0},
		"another kind":  {"spot is not on-demand", func(w *world) { p := nanos; p.CapacityType = v1beta1.Spot; w.restart(pool(p)) }, 0, 3},
		"given up": {"a cell that hangs", func(w *world) {
			w.change(&w.cells()[0], func(c *v1beta1.Cell) { c.Status.Failure = &v1beta1.FailureStatus{Message: "silent"} })
		}, 2, 3},
		"interrupted": {"the cloud takes it", func(w *world) {
			w.change(&w.cells()[0], func(c *v1beta1.Cell) {
				c.Status.Interruption = &v1beta1.InterruptionStatus{Kind: v1beta1.SpotInterruption}
			})
		}, 2, 3},
		"lost": {"its instance is gone", func(w *world) {
			w.change(&w.cells()[0], func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellTerminating })
		}, 2, 3},
		"another node's": {"it has a Kip of its own", func(w *world) { w.restart(func(c *Config) { c.NodeName = "kip-provider-1" }) }, 3, 6},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must()
			w.up()
			before := map[string]bool{}
			for _, c := range w.cells() {
				before[c.Name] = true
			}
			tc.then(w)
			w.clock.Step(time.Minute)
			w.must()
			w.must()
			kept := 0
			for _, c := range w.cells() {
				if before[c.Name] {
					kept++
				}
			}
			if all := len(w.cells()); kept != tc.kept || all != tc.all {
				t.Errorf("%s: %d kept of %d, want %d of %d", tc.reason, kept, all, tc.kept, tc.all)
			}
		})
	}
}

// TestReadyOnesAreKept: of too many, those go that are of least use.
func TestReadyOnesAreKept(t *testing.T) {
	w := newWorld(t)
	w.must()
	ready := w.cells()[2]
	w.change(&ready, booted)
	p := nanos
	p.Count = 1
	w.restart(pool(p))
	w.must()
	if cells := w.cells(); len(cells) != 1 || cells[0].Name != ready.Name {
		t.Errorf("%d cells are kept, want the one that is ready", len(cells))
	}
}

// TestNoPodLosesItsCell: a cell that was taken after the cache was read is not
// ended, whatever the reason.
func TestNoPodLosesItsCell(t *testing.T) {
	w := newWorld(t)
	w.must()
	w.up()
	w.stale = w.cells()
	for _, c := range w.cells() {
		w.take(&c)
	}
	w.configuration = "second"
	w.must()
	w.restart(pool())
	w.must()
	taken := 0
	for _, c := range w.cells() {
		if c.Spec.Pod != nil {
			taken++
		}
	}
	if taken != 3 {
		t.Errorf("%d pods have their cells, want 3", taken)
	}
}

// TestCacheLags: cells that were made are counted before the cache knows them,
// and what a Kip made that was killed is not made again for long.
func TestCacheLags(t *testing.T) {
	w := newWorld(t)
	w.stale = []v1beta1.Cell{}
	for range 4 {
		w.must()
	}
	if n := len(w.cells()); n != 3 {
		t.Fatalf("%d cells", n)
	}
	w.clock.Step(time.Second)
	w.restart()
	w.must() // knows nothing of the first three
	if n := len(w.cells()); n != 6 {
		t.Fatalf("%d cells", n)
	}
	w.stale = nil
	w.must()
	if n := len(w.cells()); n != 3 {
		t.Errorf("%d cells are left of too many", n)
	}
	w.must()
	if n := len(w.cells()); n != 3 {
		t.Errorf("%d cells at last", n)
	}
}

func TestCallsThatFail(t *testing.T) {
	for _, call := range []string{"create", "delete"} {
		w := newWorld(t)
		w.must()
		w.configuration = "second"
		refused := errors.New("refused")
		w.fail = func(c string) error {
			if c == call {
				return refused
			}
			return nil
		}
		if _, err := w.look(); !errors.Is(err, refused) {
			t.Errorf("%s: error %v, so it is not tried again", call, err)
		}
		w.fail = nil
		w.must()
		w.must()
		for _, c := range w.cells() {
			if c.Spec.Standby.Configuration != "second" {
				t.Errorf("%s: %s is of the %s configuration", call, c.Name, c.Spec.Standby.Configuration)
			}
		}
		if n := len(w.cells()); n != 3 {
			t.Errorf("%s: %d cells", call, n)
		}
	}
}

// TestStoppedPool: its cells are of a kind of their own, beside those that run.
func TestStoppedPool(t *testing.T) {
	stopped := nanos
	stopped.Stopped, stopped.Count = true, 2
	w := newWorld(t, pool(nanos, stopped))
	w.must()
	w.up()
	w.must()
	n := 0
	for _, c := range w.cells() {
		if c.Spec.Standby.Stopped {
			n++
		}
	}
	if all := len(w.cells()); n != 2 || all != 5 {
		t.Fatalf("%d of %d are kept stopped", n, all)
	}
	w.restart(pool(stopped))
	w.must()
	for _, c := range w.cells() {
		if !c.Spec.Standby.Stopped {
			t.Errorf("%s runs, which is not configured any more", c.Name)
		}
	}
	// Those that cannot be stopped are no end of instances.
	w.restart(pool(stopped))
	for _, c := range w.cells() {
		w.change(&c, func(c *v1beta1.Cell) { c.Status.Phase, c.Status.Stop.Stopped = v1beta1.CellTerminating, nil })
	}
	w.must()
	w.must()
	if n := len(w.cells()); n != 0 {
		t.Errorf("%d are made at once for 2 that could not be stopped", n)
	}
	w.clock.Step(longestPause)
	w.must()
	w.must()
	if n := len(w.cells()); n != 1 {
		t.Errorf("%d are made to see whether it works now", n)
	}
	w.up()
	w.must()
	if n := len(w.cells()); n != 2 {
		t.Errorf("%d are there, and it works", n)
	}
}

// TestPausesWhenCellsDoNotComeUp: a machine image that does not boot does not
// cost an instance a second.
func TestPausesWhenCellsDoNotComeUp(t *testing.T) {
	w := newWorld(t)
	w.must()
	made := map[string]bool{}
	begin := w.clock.Now()
	for w.clock.Since(begin) < time.Hour {
		for _, c := range w.cells() {
			made[c.Name] = true
			w.change(&c, func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellTerminating })
		}
		w.must()
		w.clock.Step(10 * time.Second)
	}
	if n := len(made); n < 6 || n > 60 {
		t.Errorf("%d instances were launched in an hour in which none came up", n)
	}
	w.clock.Step(longestPause)
	w.must()
	w.up()
	w.must()
	c := w.cells()[0]
	w.take(&c)
	w.must()
	if n := len(w.waiting()); n != 3 {
		t.Errorf("%d cells wait: what came up since counts for nothing", n)
	}
}

func TestZones(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		zones  []string
		there  map[string]int
		want   string
	}{
		"empty":   {"the first", []string{"a", "b"}, nil, "a"},
		"fewest":  {"so that they are spread", []string{"a", "b", "c"}, map[string]int{"a": 1, "b": 0, "c": 1}, "b"},
		"others":  {"zones without a subnet do not count", []string{"a", "b"}, map[string]int{"a": 1, "b": 1, "c": 0}, "a"},
		"unknown": {"whoever launches knows", nil, map[string]int{"a": 1}, ""},
	} {
		if got := emptiest(tc.zones, tc.there); got != tc.want {
			t.Errorf("%s: %q, want %q: %s", name, got, tc.want, tc.reason)
		}
	}
}

// TestGoesElsewhereWhenAZoneIsSoldOut: unless all cells have to be there.
func TestGoesElsewhereWhenAZoneIsSoldOut(t *testing.T) {
	for name, tc := range map[string]struct {
		zone, reason string
		want         int
	}{
		"capacity":      {"", v1beta1.ReasonInsufficientCapacity, 0},
		"subnet":        {"", v1beta1.ReasonSubnetFull, 0},
		"not its fault": {"", v1beta1.ReasonDenied, 1},
		"fixed":         {"us-west-2b", v1beta1.ReasonInsufficientCapacity, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Zone = tc.zone })
			w.must()
			for _, c := range w.cells() {
				w.change(&c, waitsFor(tc.reason))
			}
			w.must()
			for _, c := range w.cells() {
				if n := len(c.Spec.Requirements.Zones); n != tc.want {
					t.Errorf("it may go to %v", c.Spec.Requirements.Zones)
				}
				if tc.zone != "" && c.Spec.Requirements.Zones[0] != tc.zone {
					t.Errorf("it is in %v", c.Spec.Requirements.Zones)
				}
			}
		})
	}
}

func TestLooksAgainWithoutNews(t *testing.T) {
	w := newWorld(t)
	if r := w.must(); r.RequeueAfter <= 0 || r.RequeueAfter > recheck {
		t.Errorf("the next look is after %s: a new machine image is no event", r.RequeueAfter)
	}
}

func TestIndex(t *testing.T) {
	cell := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1beta1.CellSpec{NodeName: testNode}}
	if waitingFor(cell) != nil {
		t.Error("a cell that is none of standby waits")
	}
	cell.Spec.Standby = &v1beta1.StandbySpec{}
	if diff := cmp.Diff([]string{testNode}, waitingFor(cell)); diff != "" {
		t.Error(diff)
	}
	cell.Spec.Pod = &v1beta1.PodReference{}
	if waitingFor(cell) != nil {
		t.Error("a cell with a pod waits for one")
	}
}
