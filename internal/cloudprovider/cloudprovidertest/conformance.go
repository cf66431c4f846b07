package cloudprovidertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Environment is one implementation on an empty cloud.
type Environment struct {
	Provider cloudprovider.Provider
	// Other is a second controller on the same cloud.
	Other cloudprovider.Provider

	// Launch is an offering that can be had.
	Launch v1beta1.LaunchStatus

	// Refuse makes the next launch fail with a kind; it returns false for
	// kinds that this cloud cannot produce. May be nil.
	Refuse func(cloudprovider.Kind) bool

	// Pass lets time go by; nil means time.Sleep.
	Pass func(time.Duration)
	// Patience is how long reads and states may take to follow.
	Patience time.Duration
}

// Run checks the rules of the seam. Setup is called for every test.
func Run(t *testing.T, setup func(*testing.T) Environment) {
	for name, test := range map[string]func(*testing.T, *Environment){
		"Create gives an instance with addresses":       createGives,
		"Create is idempotent by its token":             createIdempotent,
		"Create at the same time launches once":         createConcurrently,
		"Create with another token launches again":      createOther,
		"Create does not revive a terminated instance":  createTerminated,
		"Create refuses user data that is too large":    createLarge,
		"Create says definite only of what was refused": createRefused,
		"Create buys spot capacity":                     createSpot,
		"Get knows only its own":                        getOwn,
		"List shows its own and all of them":            listOwn,
		"ListCells shows those of some cells":           listCells,
		"Delete ends an instance, any number of times":  deleteEnds,
		"Delete of the unknown is NotFound":             deleteUnknown,
		"Zones name where one can launch":               zones,
		"an ended context ends a call":                  endedContext,
	} {
		t.Run(name, func(t *testing.T) {
			env := setup(t)
			if env.Pass == nil {
				env.Pass = time.Sleep
			}
			test(t, &env)
		})
	}
}

// request is a launch of a new cell.
func (e *Environment) request() cloudprovider.LaunchRequest {
	uid := uuid.NewUUID()
	launch := e.Launch
	if launch.CapacityType == "" {
		launch.CapacityType = v1beta1.OnDemand
	}
	return cloudprovider.LaunchRequest{
		ClientToken: string(uid), CellName: "cell-" + string(uid)[:8], CellUID: uid,
		Pod:    &v1beta1.PodReference{Namespace: "default", Name: "pod-" + string(uid)[:8], UID: "pod-" + uid},
		Launch: launch, UserData: []byte(`{"apiVersion":"test"}`), CPU: resource.MustParse("100m"),
	}
}

func (e *Environment) create(t *testing.T, req cloudprovider.LaunchRequest) *cloudprovider.Instance {
	t.Helper()
	got, err := e.Provider.Create(t.Context(), req)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return got
}

// eventually repeats a check until it holds.
func (e *Environment) eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	// A cloud that needs long is asked less often: it counts requests.
	step := max(50*time.Millisecond, e.Patience/200)
	for waited := time.Duration(0); !check(); waited += step {
		if waited > e.Patience {
			t.Fatalf("%s: not after %s", what, e.Patience)
		}
		e.Pass(step)
	}
}

func (e *Environment) listed(t *testing.T, uid types.UID) []cloudprovider.Instance {
	t.Helper()
	all, err := e.Provider.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return slices.DeleteFunc(all, func(i cloudprovider.Instance) bool { return i.CellUID != uid })
}

func createGives(t *testing.T, e *Environment) {
	req := e.request()
	got := e.create(t, req)
	switch {
	case got.ID == "":
		t.Error("no ID")
	case got.PrimaryIP == "" || got.PodIP == "" || got.PrimaryIP == got.PodIP:
		t.Errorf("want two addresses, got %q and %q", got.PrimaryIP, got.PodIP)
	case !got.State.Alive():
		t.Errorf("state is %s", got.State)
	}
	e.same(t, "Create", *got, req)
}

// same checks that an instance is what was asked for.
func (e *Environment) same(t *testing.T, method string, got cloudprovider.Instance, req cloudprovider.LaunchRequest) {
	t.Helper()
	want := cloudprovider.Instance{
		CellName: req.CellName, CellUID: req.CellUID, ClientToken: req.ClientToken,
		InstanceType: req.Launch.InstanceType, Zone: req.Launch.Zone, CapacityType: req.Launch.CapacityType,
	}
	is := cloudprovider.Instance{
		CellName: got.CellName, CellUID: got.CellUID, ClientToken: got.ClientToken,
		InstanceType: got.InstanceType, Zone: got.Zone, CapacityType: got.CapacityType,
	}
	if is != want {
		t.Errorf("%s: got %+v, want %+v", method, is, want)
	}
}

func createIdempotent(t *testing.T, e *Environment) {
	req := e.request()
	first := e.create(t, req)
	if again := e.create(t, req); again.ID != first.ID {
		t.Errorf("the same token launched %s and %s", first.ID, again.ID)
	}
	changed := req
	changed.UserData = []byte(`{"apiVersion":"changed"}`)
	e.eventually(t, "the first instance in place of one with other parameters", func() bool {
		again, err := e.Provider.Create(t.Context(), changed)
		if err != nil {
			if k := cloudprovider.KindOf(err); k != cloudprovider.TokenConflict {
				t.Fatalf("Create with other parameters: kind %s (%v), want the instance or TokenConflict", k, err)
			}
			return false
		}
		if again.ID != first.ID {
			t.Fatalf("the same token launched %s and %s", first.ID, again.ID)
		}
		return true
	})
}

func createConcurrently(t *testing.T, e *Environment) {
	const callers = 8
	req := e.request()
	ids := make([]string, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			got, err := e.Provider.Create(t.Context(), req)
			if err != nil {
				t.Errorf("Create: %v", err)
				return
			}
			ids[i] = got.ID
		})
	}
	wg.Wait()
	if ids = slices.Compact(ids); len(ids) != 1 {
		t.Errorf("one token launched %q", ids)
	}
}

func createOther(t *testing.T, e *Environment) {
	req := e.request()
	first := e.create(t, req)
	req.ClientToken += "-1"
	if second := e.create(t, req); second.ID == first.ID {
		t.Errorf("another token gave the same instance %s", first.ID)
	}
}

func createTerminated(t *testing.T, e *Environment) {
	req := e.request()
	first := e.create(t, req)
	e.remove(t, first.ID)
	again, err := e.Provider.Create(t.Context(), req)
	switch {
	case err == nil && (again.ID != first.ID || again.State.Alive()):
		t.Errorf("got %s, %s, want the terminated %s or an error", again.ID, again.State, first.ID)
	case err != nil && cloudprovider.KindOf(err) != cloudprovider.Terminated:
		t.Errorf("kind is %s (%v), want Terminated", cloudprovider.KindOf(err), err)
	}
}

func createLarge(t *testing.T, e *Environment) {
	req := e.request()
	req.UserData = bytes.Repeat([]byte("x"), 16<<10+1)
	_, err := e.Provider.Create(t.Context(), req)
	if k := cloudprovider.KindOf(err); k != cloudprovider.InvalidConfiguration {
		t.Errorf("kind is %q (%v), want InvalidConfiguration", k, err)
	}
}

func createRefused(t *testing.T, e *Environment) {
	if e.Refuse == nil {
		t.Skip("this cloud refuses nothing on demand")
	}
	for _, kind := range []cloudprovider.Kind{
		cloudprovider.InsufficientCapacity, cloudprovider.SubnetFull, cloudprovider.QuotaExceeded, cloudprovider.VCPUQuotaExceeded,
		cloudprovider.Denied, cloudprovider.Unsupported, cloudprovider.InvalidConfiguration,
		cloudprovider.Throttled, // last: after it an implementation may be slow
	} {
		if !e.Refuse(kind) {
			continue
		}
		req := e.request()
		_, err := e.Provider.Create(t.Context(), req)
		if got := cloudprovider.KindOf(err); got != kind || !got.Definite() {
			t.Errorf("refused for %s: kind is %q (%v)", kind, got, err)
		}
		e.Pass(e.Patience / 10)
		if got := e.listed(t, req.CellUID); len(got) > 0 {
			t.Errorf("refused for %s, and yet launched: %+v", kind, got)
		}
	}
}

func createSpot(t *testing.T, e *Environment) {
	req := e.request()
	req.Launch.CapacityType = v1beta1.Spot
	got := e.create(t, req)
	e.same(t, "Create", *got, req)
}

func getOwn(t *testing.T, e *Environment) {
	req := e.request()
	created := e.create(t, req)
	e.eventually(t, "Get of a new instance", func() bool {
		got, err := e.Provider.Get(t.Context(), created.ID)
		if cloudprovider.IsNotFound(err) {
			return false
		}
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		e.same(t, "Get", *got, req)
		return true
	})
	for name, get := range map[string]func() error{
		"unknown":   func() error { _, err := e.Provider.Get(t.Context(), "i-00000000000000bad"); return err },
		"another's": func() error { _, err := e.Other.Get(t.Context(), created.ID); return err },
	} {
		if err := get(); !cloudprovider.IsNotFound(err) {
			t.Errorf("Get of %s instance: %v, want NotFound", name, err)
		}
	}
}

func listOwn(t *testing.T, e *Environment) {
	const n = 5
	reqs := map[types.UID]cloudprovider.LaunchRequest{}
	for range n {
		req := e.request()
		reqs[req.CellUID] = req
		e.create(t, req)
	}
	e.eventually(t, fmt.Sprintf("List of %d instances", n), func() bool {
		all, err := e.Provider.List(t.Context())
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		return len(all) == n
	})
	all, _ := e.Provider.List(t.Context())
	for _, i := range all {
		e.same(t, "List", i, reqs[i.CellUID])
		if i.PrimaryIP == "" || i.PodIP == "" || i.LaunchTime.IsZero() {
			t.Errorf("List lacks addresses or launch time: %+v", i)
		}
	}
	if others, err := e.Other.List(t.Context()); err != nil || len(others) > 0 {
		t.Errorf("another controller lists %v (%v)", others, err)
	}
}

func listCells(t *testing.T, e *Environment) {
	lister, ok := e.Provider.(cloudprovider.CellLister)
	if !ok {
		t.Skip("it cannot")
	}
	var want []string
	var asked []types.UID
	for i := range 5 {
		req := e.request()
		got := e.create(t, req)
		if i%2 == 0 {
			asked, want = append(asked, req.CellUID), append(want, got.ID)
		}
	}
	slices.Sort(want)
	var got []string
	e.eventually(t, "ListCells of three of five cells, and one that has no instance", func() bool {
		all, err := lister.ListCells(t.Context(), append(asked, uuid.NewUUID()))
		if err != nil {
			t.Fatalf("ListCells: %v", err)
		}
		got = nil
		for _, i := range all {
			got = append(got, i.ID)
		}
		slices.Sort(got)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("ListCells shows %v, want %v", got, want)
	}
	if other, ok := e.Other.(cloudprovider.CellLister); ok {
		if all, err := other.ListCells(t.Context(), asked); err != nil || len(all) > 0 {
			t.Errorf("another controller is shown %v (%v)", all, err)
		}
	}
}

// remove terminates an instance and waits for its end.
func (e *Environment) remove(t *testing.T, id string) {
	t.Helper()
	e.eventually(t, "Delete", func() bool {
		err := e.Provider.Delete(t.Context(), id)
		if err != nil && !cloudprovider.IsNotFound(err) {
			t.Fatalf("Delete: %v", err)
		}
		return err == nil
	})
	e.eventually(t, "end of the instance", func() bool {
		i, err := e.Provider.Get(t.Context(), id)
		return cloudprovider.IsNotFound(err) || err == nil && i.State == cloudprovider.StateTerminated
	})
}

func deleteEnds(t *testing.T, e *Environment) {
	req := e.request()
	got := e.create(t, req)
	e.remove(t, got.ID)
	for range 2 {
		if err := e.Provider.Delete(t.Context(), got.ID); err != nil && !cloudprovider.IsNotFound(err) {
			t.Errorf("Delete of a terminated instance: %v", err)
		}
	}
	for _, i := range e.listed(t, req.CellUID) {
		if i.State != cloudprovider.StateTerminated {
			t.Errorf("listed as %s", i.State)
		}
	}
}

func deleteUnknown(t *testing.T, e *Environment) {
	if err := e.Provider.Delete(t.Context(), "i-00000000000000bad"); !cloudprovider.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
}

func zones(t *testing.T, e *Environment) {
	lister, ok := e.Provider.(cloudprovider.ZoneLister)
	if !ok {
		t.Skip("does not list zones")
	}
	got, err := lister.Zones(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(got) || !slices.Contains(got, e.Launch.Zone) {
		t.Errorf("got %q, want sorted zones with %q", got, e.Launch.Zone)
	}
}

func endedContext(t *testing.T, e *Environment) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Provider.Create(ctx, e.request())
	if got := cloudprovider.KindOf(err); got != cloudprovider.Transient {
		t.Errorf("Create: kind is %q (%v), want Transient", got, err)
	}
	if _, err := e.Provider.List(ctx); err == nil {
		t.Error("List: want an error")
	}
}
