package lifecycle

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// crowd is a world of many Cells, with a controller's work queue.
type crowd struct {
	*world
	due      map[string]time.Time // when a Cell is to be looked at
	versions map[string]string    // what the queue knows of
	space    map[types.UID]string // namespaces
	made     int
}

func newCrowd(t *testing.T, l limits.Limits) *crowd {
	c := &crowd{world: newWorld(t), due: map[string]time.Time{}, versions: map[string]string{}, space: map[types.UID]string{}}
	c.limits = l
	c.start(&mortal{})
	return c
}

// start starts another Kip, which looks at every Cell.
func (c *crowd) start(life *mortal) {
	c.boot(life)
	c.versions = map[string]string{}
}

func (c *crowd) cells() []v1beta1.Cell {
	c.t.Helper()
	var all v1beta1.CellList
	if err := c.api.List(c.t.Context(), &all); err != nil {
		c.t.Fatal(err)
	}
	return all.Items
}

func (c *crowd) arrive(namespace string) string {
	c.t.Helper()
	c.made++
	name := fmt.Sprint("cell-", c.made)
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Finalizers: []string{v1beta1.Finalizer}},
		Spec: v1beta1.CellSpec{
			NodeName: testNode, Pod: &v1beta1.PodReference{Namespace: namespace, Name: name, UID: types.UID("pod-" + name)},
			Requirements: v1beta1.Requirements{CapacityTypes: []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand}},
		},
	}
	if err := c.api.Create(c.t.Context(), cell); err != nil {
		c.t.Fatal(err)
	}
	c.space[cell.UID] = namespace
	return name
}

// work brings the queue up to date and works it off, as a controller would. It
// is false when the Kip died of it.
func (c *crowd) work() (alive bool) {
	c.t.Helper()
	select {
	case <-c.kip.limits.Freed():
		for _, name := range c.kip.limits.Next() {
			c.due[name] = c.clock.Now()
		}
	default:
	}
	for _, cell := range c.cells() {
		if c.versions[cell.Name] != cell.ResourceVersion {
			c.versions[cell.Name], c.due[cell.Name] = cell.ResourceVersion, c.clock.Now()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.versions)) {
		if at, ok := c.due[name]; !ok || at.After(c.clock.Now()) {
			continue
		}
		delete(c.due, name)
		result, err := c.kip.Reconcile(c.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: name}})
		switch {
		case errors.Is(err, errKilled):
			return false
		case err != nil:
			c.due[name] = c.clock.Now().Add(time.Second)
		case result.RequeueAfter > 0:
			c.due[name] = c.clock.Now().Add(result.RequeueAfter)
		}
		c.check()
	}
	return true
}

// second lets one go by.
func (c *crowd) second() (alive bool) {
	c.t.Helper()
	c.clock.Step(time.Second)
	names, err := c.kip.Observe(c.t.Context())
	if err != nil && c.life.dead {
		return false
	}
	for _, name := range names {
		c.due[name] = c.clock.Now()
	}
	return c.work()
}

// priceOf is an offering's, in millionths of a dollar.
func (c *crowd) priceOf(i cloudprovider.Instance) int64 {
	for _, o := range c.offerings {
		if o.InstanceType == i.InstanceType && o.Zone == i.Zone && o.CapacityType == i.CapacityType {
			return limits.MicroUSD(&v1beta1.LaunchStatus{HourlyUSD: o.Price()})
		}
	}
	c.t.Fatalf("nobody offered %+v", i)
	return 0
}

// check holds the cloud, not Kip's books, against the limits.
func (c *crowd) check() {
	c.t.Helper()
	type bill struct {
		instances int
		microUSD  int64
	}
	bills, recent := map[string]bill{}, 0
	for _, i := range c.cloud.All() {
		if c.clock.Since(i.LaunchTime) < time.Minute {
			recent++
		}
		if i.State == cloudprovider.StateTerminated {
			continue
		}
		for _, of := range []string{"", c.space[i.CellUID]} {
			b := bills[of]
			bills[of] = bill{b.instances + 1, b.microUSD + c.priceOf(i)}
		}
	}
	if n := c.limits.LaunchesPerMinute; n != nil && recent > *n {
		c.t.Fatalf("%d launches in a minute, %d are allowed", recent, *n)
	}
	for of, b := range bills {
		caps := c.limits.Caps
		if of != "" {
			var ok bool
			if caps, ok = c.limits.Namespaces[of]; !ok {
				caps = c.limits.Namespaces[limits.EveryNamespace]
			}
		}
		if caps.Instances != nil && b.instances > *caps.Instances || caps.HourlyMicroUSD != nil && b.microUSD > *caps.HourlyMicroUSD {
			c.t.Fatalf("namespace %q has %d instances for %d millionths of a dollar, beyond its limits", of, b.instances, b.microUSD)
		}
	}
}

// laggard is a cache that lags behind: what it has of a Cell is some version of
// the last while.
type laggard struct {
	random *rand.Rand
	has    map[string]*v1beta1.Cell
}

func (l *laggard) catchUp(cells []v1beta1.Cell) {
	exist := map[string]bool{}
	for i := range cells {
		exist[cells[i].Name] = true
		if l.has[cells[i].Name] == nil || l.random.IntN(3) > 0 {
			l.has[cells[i].Name] = &cells[i]
		}
	}
	for name := range l.has {
		if !exist[name] {
			delete(l.has, name)
		}
	}
}

// TestNoScheduleExceedsALimit: whatever comes and goes in whatever order, while
// Kips are killed, answers are lost, the cache lags and the cloud refuses, there
// is never more than is allowed. And when all that is over everything gets its
// turn by itself.
func TestNoScheduleExceedsALimit(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { schedule(t, rand.New(rand.NewPCG(seed, 9))) })
	}
}

func schedule(t *testing.T, random *rand.Rand) {
	c := newCrowd(t, limits.Limits{
		Caps:              limits.Caps{Instances: new(3 + random.IntN(4)), HourlyMicroUSD: new(int64(20_000 + random.IntN(40_000)))},
		LaunchesPerMinute: new(4 + random.IntN(8)),
		Namespaces:        map[string]limits.Caps{"a": {Instances: new(1 + random.IntN(3))}, "*": {HourlyMicroUSD: new(int64(15_000 + random.IntN(20_000)))}},
	})
	for _, o := range slices.Clone(c.offerings) {
		o.CapacityType, o.HourlyUSD = v1beta1.Spot, o.HourlyUSD*.4
		c.offerings = append(c.offerings, o)
	}
	slices.SortStableFunc(c.offerings, func(a, b instancetype.Offering) int { return int(1e6 * (a.HourlyUSD - b.HourlyUSD)) })
	c.cloud.VisibleAfter = time.Duration(random.IntN(6)) * time.Second
	c.cloud.SoldOut = func(v1beta1.LaunchStatus) bool { return random.IntN(3) == 0 }
	cache := &laggard{random, map[string]*v1beta1.Cell{}}
	c.cached = func(name string) (*v1beta1.Cell, bool) { return cache.has[name], true }
	namespaces := []string{"a", "b", "c"}

	for second := range 150 {
		if random.IntN(3) == 0 {
			c.arrive(namespaces[random.IntN(len(namespaces))])
		}
		if all := c.cells(); len(all) > 0 && random.IntN(4) == 0 {
			if err := c.api.Delete(t.Context(), &all[random.IntN(len(all))]); client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
		}
		if random.IntN(20) == 0 {
			c.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 1 + random.IntN(3), AnswerLost: random.IntN(2) == 0})
		}
		if alive := c.cloud.Alive(); len(alive) > 0 && random.IntN(20) == 0 {
			c.cloud.Kill(alive[random.IntN(len(alive))].ID, "spot")
		}
		cache.catchUp(c.cells())
		if !c.second() {
			c.start(&mortal{at: 1 + random.IntN(60), after: random.IntN(2) == 0})
		}
		if second%40 == 0 {
			c.start(&mortal{at: 1 + random.IntN(60), after: random.IntN(2) == 0})
		}
	}

	c.cloud.Heal()
	c.cloud.SoldOut, c.cached = nil, nil
	c.start(&mortal{})
	for range 3000 {
		all := c.cells()
		if len(all) == 0 {
			return
		}
		for i := range all {
			// Each ends some time after it was launched, or lost, and not before.
			if s := all[i].Status; (s.InstanceID != "" || s.Phase == v1beta1.CellTerminating) && all[i].DeletionTimestamp == nil && random.IntN(10) == 0 {
				if err := c.api.Delete(t.Context(), &all[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !c.second() {
			t.Fatal("an immortal died")
		}
	}
	t.Fatalf("%d Cells never had their turn, of which the first says %+v", len(c.cells()), c.cells()[0].Status)
}

// TestLimitReached: the pod's owner reads what it waits for, once in an event,
// and the Cell goes on as soon as another has gone.
func TestLimitReached(t *testing.T) {
	c := newCrowd(t, limits.Limits{Caps: limits.Caps{Instances: new(1)}})
	first := c.arrive("a")
	c.work()
	second := c.arrive("a")
	for range 90 {
		c.second()
	}
	cell := &v1beta1.Cell{}
	get := func(name string) {
		t.Helper()
		if err := c.api.Get(t.Context(), types.NamespacedName{Name: name}, cell); err != nil {
			t.Fatal(err)
		}
	}
	get(second)
	ready := cell.Status.Conditions[0]
	if cell.Status.Phase != v1beta1.CellPending || ready.Reason != v1beta1.ReasonLimitReached || !strings.Contains(ready.Message, "cells.limits.instances") {
		t.Fatalf("the second cell is %s: %+v", cell.Status.Phase, ready)
	}
	said := slices.DeleteFunc(c.told(), func(e string) bool { return !strings.Contains(e, v1beta1.ReasonLimitReached) })
	if len(said) != 1 {
		t.Errorf("events: %v", said)
	}
	version := cell.ResourceVersion
	for range 90 {
		c.second()
	}
	if get(second); cell.ResourceVersion != version {
		t.Error("it is written again although nothing is new")
	}
	get(first)
	if err := c.api.Delete(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; { // its instance is shown as shutting down first
		gone = client.IgnoreNotFound(c.api.Get(t.Context(), types.NamespacedName{Name: first}, cell)) == nil &&
			!slices.ContainsFunc(c.cells(), func(x v1beta1.Cell) bool { return x.Name == first })
		if get(second); !gone && cell.Status.InstanceID != "" {
			t.Fatal("it was launched before the first was gone")
		}
		if !gone {
			c.second()
		}
	}
	c.work() // told, and not after a minute
	if get(second); cell.Status.InstanceID == "" {
		t.Errorf("the first has gone, and it still waits: %+v", cell.Status.Conditions)
	}
}

// TestIntentWithoutAnAnswer: the write of an intent may have had its effect, so
// its place is not given to another before that is known.
func TestIntentWithoutAnAnswer(t *testing.T) {
	c := newCrowd(t, limits.Limits{Caps: limits.Caps{Instances: new(1)}})
	good := c.userData
	c.userData = func(*v1beta1.Cell) ([]byte, error) { return nil, errors.New("not now") }
	bad := c.userData
	first := c.arrive("a")
	c.work() // it says what it waits for, so there is nothing to write when it does again
	old := c.cells()[0]
	c.userData, c.due[first] = good, c.clock.Now()
	c.life.at, c.life.after = c.life.calls+1, true
	if c.work() {
		t.Fatal("the write was answered")
	}
	c.life.dead, c.life.at = false, 0 // it was only the answer
	c.cached = func(name string) (*v1beta1.Cell, bool) { return &old, name == first }
	c.userData, c.due[first] = bad, c.clock.Now()
	c.work()
	c.userData = good
	second := c.arrive("a")
	c.work()
	for _, cell := range c.cells() {
		if cell.Name == second && cell.Status.Conditions[0].Reason != v1beta1.ReasonLimitReached {
			t.Errorf("the second cell says %+v", cell.Status.Conditions[0])
		}
	}
	c.cached = nil
	for range 60 {
		c.second()
	}
	if alive := c.cloud.Alive(); len(alive) != 1 || alive[0].CellName != first {
		t.Errorf("alive are %+v", alive)
	}
}

// TestNotInTheCacheYet: a Cell that a Kip before this one wrote last counts,
// although the cache of this one has not heard of it.
func TestNotInTheCacheYet(t *testing.T) {
	c := newCrowd(t, limits.Limits{Caps: limits.Caps{Instances: new(1)}})
	first := c.arrive("a")
	c.work()
	c.start(&mortal{})
	c.cached = func(name string) (*v1beta1.Cell, bool) { return nil, name == first }
	if _, err := c.kip.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: first}}); err != nil {
		t.Fatal(err)
	}
	second := c.arrive("a")
	c.work()
	if alive := c.cloud.Alive(); len(alive) != 1 || alive[0].CellName != first {
		t.Errorf("%s was launched beside %+v", second, alive)
	}
}
