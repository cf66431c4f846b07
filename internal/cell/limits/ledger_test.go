package limits

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newLedger(t *testing.T, l Limits) (*Ledger, *clocktesting.FakeClock) {
	t.Helper()
	clk := clocktesting.NewFakeClock(began)
	ledger, err := New(l, clk, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return ledger, clk
}

// cell is one that waits to be launched, for a pod of a namespace; "" is a
// standby cell.
func cell(name, namespace string) *v1beta1.Cell {
	c := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{v1beta1.Finalizer}}}
	if namespace != "" {
		c.Spec.Pod = &v1beta1.PodReference{Namespace: namespace, Name: name}
	}
	c.Status.Phase = v1beta1.CellPending
	return c
}

// launching is the Cell after its intent was written.
func launching(c *v1beta1.Cell, usd string, at time.Time) *v1beta1.Cell {
	c = c.DeepCopy()
	c.Status.Phase, c.Status.Launch = v1beta1.CellLaunching, &v1beta1.LaunchStatus{HourlyUSD: usd, Time: metav1.NewTime(at)}
	return c
}

// stopped is a Cell whose instance costs 2 USD an hour when it runs, and little
// now.
func stopped(c *v1beta1.Cell) *v1beta1.Cell {
	c = launching(c, "0.001", began)
	c.Status.Phase, c.Status.InstanceID, c.Status.Stop = v1beta1.CellStopped, "i-1", &v1beta1.StopStatus{RunningUSD: "2"}
	return c
}

// refused is the Cell when it says that it waits for a limit.
func refused(c *v1beta1.Cell) *v1beta1.Cell {
	c = c.DeepCopy()
	c.Status.Conditions = []metav1.Condition{{Type: v1beta1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1beta1.ReasonLimitReached}}
	return c
}

func limitOf(r *Reached) Limit {
	if r == nil {
		return ""
	}
	return r.Limit
}

func TestRoom(t *testing.T) {
	a, b := cell("a", "web"), cell("b", "web")
	for name, tc := range map[string]struct {
		reason   string
		limits   Limits
		has      []*v1beta1.Cell
		asks     *v1beta1.Cell
		microUSD int64
		want     Limit
	}{
		"nothing limited": {"who sets no limits is not limited", Limits{}, []*v1beta1.Cell{launching(a, "1000", began)}, b, 1e9, ""},
		"last place":      {"as many as allowed are allowed", Limits{Caps: Caps{Instances: new(2)}}, []*v1beta1.Cell{launching(a, "1", began)}, b, 1, ""},
		"full":            {"one more is one too many", Limits{Caps: Caps{Instances: new(1)}}, []*v1beta1.Cell{launching(a, "1", began)}, b, 1, Instances},
		"none":            {"0 is a limit", Limits{Caps: Caps{Instances: new(0)}}, nil, b, 1, Instances},
		"its own":         {"a Cell that goes on to another offering has its place", Limits{Caps: Caps{Instances: new(1)}}, []*v1beta1.Cell{launching(a, "1", began)}, a, 1, ""},
		"only waits":      {"a Cell without an intent costs nothing", Limits{Caps: Caps{Instances: new(1)}}, []*v1beta1.Cell{a}, b, 1, ""},
		"exact dollars":   {"sums have no error", Limits{Caps: Caps{HourlyMicroUSD: new(int64(300_000))}}, []*v1beta1.Cell{launching(a, "0.1", began)}, b, 200_000, ""},
		"dollars":         {"a millionth too much", Limits{Caps: Caps{HourlyMicroUSD: new(int64(299_999))}}, []*v1beta1.Cell{launching(a, "0.1", began)}, b, 200_000, HourlyUSD},
		"own dollars":     {"what it has is given back for what it asks", Limits{Caps: Caps{HourlyMicroUSD: new(int64(200_000))}}, []*v1beta1.Cell{launching(a, "0.1", began)}, a, 200_000, ""},
		"namespace": {"its pods have enough", Limits{Namespaces: map[string]Caps{"web": {Instances: new(1)}}},
			[]*v1beta1.Cell{launching(a, "1", began)}, b, 1, NamespaceInstances},
		"namespace dollars": {"they cost enough", Limits{Namespaces: map[string]Caps{"web": {HourlyMicroUSD: new(int64(1))}}}, nil, b, 2, NamespaceHourlyUSD},
		"another namespace": {"others are not concerned", Limits{Namespaces: map[string]Caps{"web": {Instances: new(1)}}},
			[]*v1beta1.Cell{launching(a, "1", began)}, cell("c", "batch"), 1, ""},
		"each namespace": {"* is for each by itself", Limits{Namespaces: map[string]Caps{"*": {Instances: new(1)}}},
			[]*v1beta1.Cell{launching(a, "1", began)}, cell("c", "batch"), 1, ""},
		"exception": {"what is named has not what * says", Limits{Namespaces: map[string]Caps{"*": {Instances: new(1)}, "web": {}}},
			[]*v1beta1.Cell{launching(a, "1", began)}, b, 1, ""},
		"standby": {"a cell without a pod is in no namespace", Limits{Namespaces: map[string]Caps{"*": {Instances: new(0)}}}, nil, cell("s", ""), 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := newLedger(t, tc.limits)
			for _, c := range tc.has {
				l.Note(c)
			}
			r := l.Room(tc.asks, tc.microUSD)
			if limitOf(r) != tc.want {
				t.Errorf("%s: got %+v, want %q", tc.reason, r, tc.want)
			}
			if r != nil && r.Message == "" {
				t.Error("nothing for the user to read")
			}
			if again := l.Claim(tc.asks, tc.microUSD); limitOf(again) != tc.want {
				t.Errorf("%s: a claim got %+v, want %q", tc.reason, again, tc.want)
			}
		})
	}
}

// TestRace: of many at the same time as many have a place as there are.
func TestRace(t *testing.T) {
	l, _ := newLedger(t, Limits{Caps: Caps{Instances: new(10), HourlyMicroUSD: new(int64(7))}})
	var wg sync.WaitGroup
	var claimed atomic.Int32
	for i := range 100 {
		wg.Go(func() {
			if l.Claim(cell(fmt.Sprint("c", i), "web"), 1) == nil {
				claimed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := claimed.Load(); n != 7 {
		t.Errorf("%d claims, want 7", n)
	}
}

// TestWhatIsIs: a limit that was lowered below what there is refuses, and counts
// right all the same.
func TestWhatIsIs(t *testing.T) {
	l, _ := newLedger(t, Limits{Caps: Caps{Instances: new(1)}})
	for _, name := range []string{"a", "b", "c"} {
		l.Note(launching(cell(name, "web"), "0.5", began))
	}
	if got := testutil.ToFloat64(l.metrics.instances); got != 3 {
		t.Errorf("%v instances", got)
	}
	if got := testutil.ToFloat64(l.metrics.usd); got != 1.5 {
		t.Errorf("%v USD", got)
	}
	d := cell("d", "web")
	for _, gone := range []string{"a", "b"} {
		if l.Room(d, 1) == nil {
			t.Fatal("there is no room yet")
		}
		l.Forget(gone)
	}
	over := launching(cell("c", "web"), "0.5", began)
	over.Finalizers, over.DeletionTimestamp = nil, &metav1.Time{Time: began}
	l.Note(over) // only the API server has not dropped it yet
	if r := l.Room(d, 1); r != nil {
		t.Errorf("all have gone: %+v", r)
	}
}

func TestRate(t *testing.T) {
	l, clk := newLedger(t, Limits{LaunchesPerMinute: new(2)})
	for _, name := range []string{"a", "b"} {
		if r := l.Claim(cell(name, ""), 1); r != nil {
			t.Fatalf("%s: %+v", name, r)
		}
		clk.Step(10 * time.Second)
	}
	// 20 seconds later. Who waits is told when its turn is, in its order.
	for i, want := range []int{40, 50, 100, 110, 160} {
		c := cell(fmt.Sprint("w", i), "")
		r := l.Claim(c, 1)
		if limitOf(r) != LaunchesPerMinute || r.RetryAfter != time.Duration(want)*time.Second {
			t.Errorf("waiter %d: %+v, want %d s", i, r, want)
		}
		l.Note(refused(c))
	}
	// Its end does not make a launch undone.
	l.Note(launching(cell("a", ""), "1", began))
	l.Forget("a")
	if r := l.Room(cell("w0", ""), 1); limitOf(r) != LaunchesPerMinute {
		t.Errorf("after the end of another: %+v", r)
	}
	// A refusal by the cloud does.
	l.Note(cell("b", ""))
	if r := l.Room(cell("w0", ""), 1); r != nil {
		t.Errorf("after a launch that was none: %+v", r)
	}
	// A request that was claimed and is repeated later launches later.
	clk.Step(5 * time.Minute)
	b := launching(cell("b", ""), "1", clk.Now())
	for _, name := range []string{"x", "y"} {
		if r := l.Claim(cell(name, ""), 1); r != nil {
			t.Fatalf("%s: %+v", name, r)
		}
	}
	if r := l.Launch(b); limitOf(r) != LaunchesPerMinute {
		t.Errorf("a repeated request: %+v", r)
	}
	clk.Step(time.Minute)
	for range 3 { // the same one is one, however often it is repeated
		if r := l.Launch(b); r != nil {
			t.Errorf("a minute later: %+v", r)
		}
	}
	if r := l.Claim(cell("z", ""), 1); r != nil {
		t.Errorf("the other place: %+v", r)
	}
}

// TestFill: what another Kip launched a moment ago counts.
func TestFill(t *testing.T) {
	l, clk := newLedger(t, Limits{LaunchesPerMinute: new(2), Caps: Caps{Instances: new(4)}})
	booting, running := launching(cell("booting", "web"), "1", began.Add(-30*time.Second)), launching(cell("running", "web"), "1", began.Add(-time.Hour))
	running.Status.Phase = v1beta1.CellRunning
	l.Fill([]v1beta1.Cell{*booting, *running, *launching(cell("ahead", "web"), "1", began.Add(time.Hour)), *cell("waits", "web")})
	l.FillLaunches([]cloudprovider.Instance{
		{CellName: "booting", LaunchTime: began.Add(-25 * time.Second)},
		{CellName: "running", LaunchTime: began.Add(-time.Hour)},
		{CellName: "ahead", LaunchTime: began.Add(time.Hour)}, // that clock was wrong
	})
	w := cell("waits", "web")
	if r := l.Claim(w, 1); limitOf(r) != LaunchesPerMinute || r.RetryAfter > time.Minute {
		t.Errorf("two launches in the last minute: %+v", r)
	}
	clk.Step(time.Minute)
	if r := l.Claim(w, 1); r != nil {
		t.Errorf("a minute later: %+v", r)
	}
	if r := l.Claim(cell("more", "web"), 1); limitOf(r) != Instances {
		t.Errorf("the fifth: %+v", r)
	}
}

// TestFillEnded: so does what has ended since.
func TestFillEnded(t *testing.T) {
	l, clk := newLedger(t, Limits{LaunchesPerMinute: new(1)})
	l.FillLaunches([]cloudprovider.Instance{{CellName: "ended", State: cloudprovider.StateTerminated, LaunchTime: began.Add(-20 * time.Second)}})
	if r := l.Room(cell("a", ""), 1); limitOf(r) != LaunchesPerMinute || r.RetryAfter != 41*time.Second {
		t.Errorf("got %+v", r)
	}
	clk.Step(41 * time.Second)
	if r := l.Room(cell("a", ""), 1); r != nil {
		t.Errorf("a minute later: %+v", r)
	}
}

// TestOldVersion: a cache that lags takes nothing out.
func TestOldVersion(t *testing.T) {
	l, _ := newLedger(t, Limits{Caps: Caps{Instances: new(1)}})
	old, now := cell("a", "web"), launching(cell("a", "web"), "1", began)
	old.ResourceVersion, now.ResourceVersion = "9", "10"
	l.Note(now)
	l.Note(old)
	if !l.Knows("a") || l.Room(cell("b", "web"), 1) == nil {
		t.Error("what was read before counts for what was read after")
	}
	old.ResourceVersion = "11"
	l.Note(old)
	if l.Knows("a") {
		t.Error("a newer version counts for nothing")
	}
}

// TestNext: when something ends, those go on that now can, in their order.
func TestNext(t *testing.T) {
	l, _ := newLedger(t, Limits{
		Caps:       Caps{Instances: new(3), HourlyMicroUSD: new(int64(10))},
		Namespaces: map[string]Caps{"small": {Instances: new(1)}},
	})
	for _, c := range []*v1beta1.Cell{cell("a", "small"), cell("b", "web"), cell("c", "web")} {
		if r := l.Claim(c, 3); r != nil {
			t.Fatalf("%s: %+v", c.Name, r)
		}
	}
	for _, w := range []struct {
		c        *v1beta1.Cell
		microUSD int64
	}{{cell("s", "small"), 1}, {cell("large", "web"), 9}, {cell("first", "web"), 4}, {cell("second", "web"), 1}, {cell("third", "web"), 1}} {
		if l.Room(w.c, w.microUSD) == nil {
			t.Fatalf("%s: there is room", w.c.Name)
		}
		l.Note(refused(w.c))
		l.Room(w.c, 0) // does not make it forget what it needs
	}
	if got := l.Next(); len(got) != 0 {
		t.Errorf("nothing has ended, and %v can go on", got)
	}
	l.Forget("b")
	select {
	case <-l.Freed():
	default:
		t.Error("nobody is told")
	}
	if diff := cmp.Diff([]string{"first"}, l.Next()); diff != "" {
		t.Errorf("one place, 4 USD (-want +got):\n%s", diff)
	}
	l.Forget("c")
	if diff := cmp.Diff([]string{"first", "second"}, l.Next()); diff != "" {
		t.Errorf("two places, 7 USD (-want +got):\n%s", diff)
	}
	l.Forget("a")
	if diff := cmp.Diff([]string{"s", "large"}, l.Next()); diff != "" {
		t.Errorf("three places, 10 USD (-want +got):\n%s", diff)
	}
	l.Note(cell("large", "web")) // it waits for something else now
	l.Forget("s")
	if diff := cmp.Diff([]string{"first", "second", "third"}, l.Next()); diff != "" {
		t.Errorf("without those two (-want +got):\n%s", diff)
	}
}

// TestWaiting: the gauge is of Cells that wait now.
func TestWaiting(t *testing.T) {
	l, _ := newLedger(t, Limits{Caps: Caps{Instances: new(1), HourlyMicroUSD: new(int64(5))}})
	l.Claim(cell("a", "web"), 1)
	b, c := cell("b", "web"), cell("c", "web")
	l.Room(b, 1)
	l.Room(c, 1)
	count := func(limit Limit) float64 { return testutil.ToFloat64(l.metrics.waiting.WithLabelValues(string(limit))) }
	if got := count(Instances); got != 2 {
		t.Errorf("%v wait for an instance", got)
	}
	l.Forget("a")
	l.Room(b, 6)
	if i, usd := count(Instances), count(HourlyUSD); i != 1 || usd != 1 {
		t.Errorf("%v wait for an instance and %v for dollars", i, usd)
	}
	l.Claim(b, 1)
	l.Forget("c")
	if i, usd := count(Instances), count(HourlyUSD); i != 0 || usd != 0 {
		t.Errorf("%v wait for an instance and %v for dollars", i, usd)
	}
}

// TestGive: a standby cell that gets a pod counts for the pod's namespace from
// before that is written, and for all namespaces as before.
func TestGive(t *testing.T) {
	namespaced := Limits{Namespaces: map[string]Caps{"web": {Instances: new(1)}}}
	for name, tc := range map[string]struct {
		reason string
		limits Limits
		before []*v1beta1.Cell
		want   bool
	}{
		"nothing limited": {"it need not be known", Limits{}, nil, true},
		"room":            {"the namespace has none yet", namespaced, []*v1beta1.Cell{launching(cell("standby", ""), "1", began)}, true},
		"full":            {"the namespace has its one", namespaced, []*v1beta1.Cell{launching(cell("standby", ""), "1", began), launching(cell("a", "web"), "1", began)}, false},
		"not known":       {"what is not counted could be one too many", namespaced, nil, false},
		"all full": {"no instance is added", Limits{Caps: Caps{Instances: new(1)}, Namespaces: namespaced.Namespaces},
			[]*v1beta1.Cell{launching(cell("standby", ""), "1", began)}, true},
		"stopped, room":      {"what it costs when it runs is allowed", Limits{Caps: Caps{HourlyMicroUSD: new(int64(3e6))}}, []*v1beta1.Cell{stopped(cell("standby", ""))}, true},
		"stopped, all full":  {"it would cost more than it does", Limits{Caps: Caps{HourlyMicroUSD: new(int64(1e6))}}, []*v1beta1.Cell{stopped(cell("standby", ""))}, false},
		"stopped, its own":   {"it would cost the namespace more", Limits{Namespaces: map[string]Caps{"web": {HourlyMicroUSD: new(int64(1e6))}}}, []*v1beta1.Cell{stopped(cell("standby", ""))}, false},
		"stopped, too often": {"a start is a launch", Limits{LaunchesPerMinute: new(0)}, []*v1beta1.Cell{stopped(cell("standby", ""))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := newLedger(t, tc.limits)
			for _, c := range tc.before {
				l.Note(c)
			}
			standby := launching(cell("standby", ""), "1", began)
			if len(tc.before) > 0 {
				standby = tc.before[0]
			}
			all := l.all
			if got := l.Give(standby, "web"); got != tc.want {
				t.Errorf("given = %t, want %t: %s", got, tc.want, tc.reason)
			}
			if l.TakeBack(standby); l.all != all {
				t.Errorf("taken back it comes to %+v, before to %+v", l.all, all)
			}
		})
	}
}

func TestGivenCountsUntilTheCellSaysOtherwise(t *testing.T) {
	l, _ := newLedger(t, Limits{Namespaces: map[string]Caps{"web": {Instances: new(1)}}})
	free := launching(cell("standby", ""), "1", began)
	free.ResourceVersion = "7"
	l.Note(free)
	if !l.Give(free, "web") {
		t.Fatal("not given")
	}
	l.Note(free) // a look at the Cell as it was
	if got := limitOf(l.Room(cell("a", "web"), 1)); got != NamespaceInstances {
		t.Errorf("an old version took it back: %q", got)
	}
	l.TakeBack(free)
	if got := limitOf(l.Room(cell("a", "web"), 1)); got != "" {
		t.Errorf("it was taken back and counts: %q", got)
	}
	l.Give(free, "web")
	other := free.DeepCopy()
	other.ResourceVersion = "8"
	l.Note(other) // it was changed, and has no pod
	if got := limitOf(l.Room(cell("a", "web"), 1)); got != "" {
		t.Errorf("the Cell says that it has no pod: %q", got)
	}
	taken := other.DeepCopy()
	taken.ResourceVersion, taken.Spec.Pod = "9", &v1beta1.PodReference{Namespace: "web", Name: "a"}
	l.Note(taken)
	if got := limitOf(l.Room(cell("b", "web"), 1)); got != NamespaceInstances {
		t.Errorf("the pod's cell does not count: %q", got)
	}
}
