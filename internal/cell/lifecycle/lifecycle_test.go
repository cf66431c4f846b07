package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
	"github.com/elotl/kip/v2/internal/instancetype"
)

func TestWholeLife(t *testing.T) {
	w := newWorld(t)
	w.add()

	w.must()
	cell := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
	if l := cell.Status.Launch; l.InstanceType != "t3.nano" || l.Zone != "us-west-2a" || l.Number != 0 || l.HourlyUSD != "0.005" {
		t.Errorf("launched %+v, want the first offering", l)
	}
	if cell.Status.InstanceID == "" || cell.Status.PrimaryIP == "" || cell.Status.PodIP == "" {
		t.Errorf("instance and addresses must be known right after the launch: %+v", cell.Status)
	}
	if got := w.cloud.Alive()[0]; got.ClientToken != string(cell.UID) || got.CellUID != cell.UID {
		t.Errorf("instance carries %q, %q; want the cell's UID", got.ClientToken, got.CellUID)
	}
	if got := w.told(); len(got) != 1 || !strings.Contains(got[0], "t3.nano") {
		t.Errorf("events %q, want one about the launch", got)
	}

	w.enrol()
	w.must()
	w.want(v1beta1.CellBooting, v1beta1.ReasonBooting) // the pod usually runs in a moment
	w.podPhase(corev1.PodRunning)
	w.must()
	w.want(v1beta1.CellRunning, v1beta1.ReasonEnrolled)

	w.podPhase(corev1.PodSucceeded)
	w.must()
	w.want(v1beta1.CellRunning, v1beta1.ReasonEnrolled) // the Cell is usually deleted in a moment
	w.clock.Step(drainingPatience)
	w.must()
	w.want(v1beta1.CellDraining, v1beta1.ReasonDraining)

	w.delete()
	w.must()
	w.want(v1beta1.CellTerminating, v1beta1.ReasonTerminating)
	if alive := w.cloud.Alive(); len(alive) > 0 {
		t.Errorf("termination must be asked for in the first reconcile after deletion: %+v", alive)
	}
	w.until("cell gone", func() bool { return w.cell() == nil })
	if n := len(w.kip.memories); n != 0 {
		w.must() // the deletion's own event
		if n := len(w.kip.memories); n != 0 {
			t.Errorf("%d memories left", n)
		}
	}
}

func TestFewWrites(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.must() // own write's event
	w.enrol()
	w.must()
	w.podPhase(corev1.PodRunning)
	w.until("running", func() bool { return w.cell().Status.Phase == v1beta1.CellRunning })
	for range 30 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	w.delete()
	w.until("cell gone", func() bool { return w.cell() == nil })
	// Intent, instance, running, terminating, finalizer.
	if w.writes > 5 {
		t.Errorf("%d writes in a whole life, want 5", w.writes)
	}
	if n := w.cloud.Calls(cloudprovidertest.Create); n != 1 {
		t.Errorf("%d launches asked for, want 1", n)
	}
	if n := w.cloud.Calls(cloudprovidertest.Delete); n != 1 {
		t.Errorf("%d terminations asked for, want 1", n)
	}
}

func TestStandbyCellThenBound(t *testing.T) {
	w := newWorld(t)
	w.add(func(c *v1beta1.Cell) { c.Spec.Pod, c.Spec.Standby = nil, &v1beta1.StandbySpec{} })
	w.must()
	w.enrol()
	w.must()
	cell := w.want(v1beta1.CellReady, v1beta1.ReasonEnrolled)
	cell.Spec.Pod = &v1beta1.PodReference{Namespace: "default", Name: "web", UID: "pod-uid"}
	if err := w.api.Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	w.must() // it may still lose the pod to another cell
	cell = w.want(v1beta1.CellReady, v1beta1.ReasonEnrolled)
	cell.Status.Standby = &v1beta1.StandbyStatus{PodBound: metav1.NewTime(w.clock.Now())}
	if err := w.api.Status().Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	w.must()
	w.want(v1beta1.CellBound, v1beta1.ReasonEnrolled)
}

func TestBoundIsShownWhenItLasts(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.enrol()
	result := w.must()
	if result.RequeueAfter <= 0 || result.RequeueAfter > boundPatience {
		t.Errorf("RequeueAfter = %s", result.RequeueAfter)
	}
	w.clock.Step(boundPatience)
	w.must()
	w.want(v1beta1.CellBound, v1beta1.ReasonEnrolled)
}

func TestFallsBackWithinOneReconcile(t *testing.T) {
	w := newWorld(t)
	w.cloud.SoldOut = func(l v1beta1.LaunchStatus) bool { return l.InstanceType == "t3.nano" }
	w.add()
	w.must()
	cell := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
	if l := cell.Status.Launch; l.InstanceType != "t3.micro" || l.Number != 3 {
		t.Errorf("launched %+v, want t3.micro as the fourth attempt", l)
	}
	if got, want := w.cloud.Alive()[0].ClientToken, string(cell.UID)+"-3"; got != want {
		t.Errorf("token %q, want %q", got, want)
	}

	// Another cell profits from what this one learnt.
	calls := w.cloud.Calls(cloudprovidertest.Create)
	if _, avoided := w.kip.unavailable.Until(instancetype.Key{InstanceType: "t3.nano", Zone: "us-west-2b", CapacityType: v1beta1.OnDemand}, w.clock.Now()); !avoided {
		t.Errorf("t3.nano in us-west-2b must be avoided after %d calls", calls)
	}
	if _, avoided := w.kip.unavailable.Until(instancetype.Key{InstanceType: "t3.nano", Zone: "us-west-2b", CapacityType: v1beta1.Spot}, w.clock.Now()); avoided {
		t.Error("a shortage of on-demand says nothing about spot")
	}
}

func TestSoldOutWaitsAndStartsByItself(t *testing.T) {
	w := newWorld(t)
	soldOut := true
	w.cloud.SoldOut = func(v1beta1.LaunchStatus) bool { return soldOut }
	w.offerings = w.offerings[6:] // t3.small in three zones
	w.add()
	result := w.must()
	w.want(v1beta1.CellPending, v1beta1.ReasonInsufficientCapacity)
	if m := w.message(); !strings.Contains(m, "t3.small (on-demand) in us-west-2a") || !strings.Contains(m, "tried again every 15s") {
		t.Errorf("message %q must say what was tried and that it is tried again", m)
	}
	if result.RequeueAfter <= 0 || result.RequeueAfter > time.Minute {
		t.Errorf("RequeueAfter = %s, want at most a minute", result.RequeueAfter)
	}
	if got := w.told(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning InsufficientCapacity") {
		t.Errorf("events %q, want one", got)
	}
	writes := w.writes
	w.clock.Step(capacityRecheck - time.Second)
	w.must()
	if w.writes != writes {
		t.Error("looking again without news must not write")
	}
	soldOut = false
	w.clock.Step(time.Second)
	w.must()
	w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
}

// TestProbes: what was refused is tried again soon if nothing else is left, and
// by one Cell at a time. It stays avoided by Cells that have a choice.
func TestProbes(t *testing.T) {
	w := newWorld(t)
	w.cloud.SoldOut = func(v1beta1.LaunchStatus) bool { return true }
	w.offerings = w.offerings[6:] // t3.small in three zones
	w.add()
	w.must()
	asked := w.cloud.Calls(cloudprovidertest.Create)
	if asked != 3 {
		t.Fatalf("%d launches, want one for each offering", asked)
	}
	for range 4 {
		w.clock.Step(capacityRecheck)
		for range 5 {
			w.must()
		}
		if got := w.cloud.Calls(cloudprovidertest.Create) - asked; got != 3 && got != 1 {
			t.Errorf("%d launches in a quarter of a minute, want each offering once at most", got)
		}
		asked = w.cloud.Calls(cloudprovidertest.Create)
	}
	w.want(v1beta1.CellPending, v1beta1.ReasonInsufficientCapacity)
	key := w.offerings[0].Key()
	if _, avoided := w.kip.unavailable.Until(key, w.clock.Now()); !avoided {
		t.Error("a probe that was refused must not end that the offering is avoided")
	}
	w.cloud.SoldOut = nil
	w.clock.Step(capacityRecheck)
	w.must()
	l := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting).Status.Launch
	if _, avoided := w.kip.unavailable.Until(offeringOf(l), w.clock.Now()); avoided {
		t.Error("the offering was had, and is still avoided")
	}
}

// TestVCPUQuota: a smaller type may fit the account's limit, and nothing else
// of that capacity type may.
func TestVCPUQuota(t *testing.T) {
	for name, tc := range map[string]struct {
		vcpus  []int32 // of t3.nano, t3.micro, t3.small
		want   string
		reason string
	}{
		"smaller": {[]int32{8, 8, 2}, "t3.small", "a smaller one costs more and fits"},
		"none":    {[]int32{2, 2, 2}, "", "none is smaller than what was refused"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for i := range w.offerings {
				w.offerings[i].VCPUs = tc.vcpus[i/3]
			}
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(cloudprovider.VCPUQuotaExceeded),
				If: func(r cloudprovider.LaunchRequest) bool { return r.Launch.InstanceType != tc.want }})
			w.add()
			w.must()
			if n := w.cloud.Calls(cloudprovidertest.Create); n > 2 {
				t.Errorf("%d launches", n)
			}
			if tc.want == "" {
				w.want(v1beta1.CellPending, v1beta1.ReasonQuotaExceeded)
				return
			}
			if l := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting).Status.Launch; l.InstanceType != tc.want {
				t.Errorf("launched %+v: %s", l, tc.reason)
			}
		})
	}
}

func TestNothingFits(t *testing.T) {
	w := newWorld(t)
	all := w.offerings
	w.offerings = nil
	w.add()
	w.kip.cfg.Offerings = func(req v1beta1.Requirements, opts instancetype.Options) instancetype.Result {
		if len(w.offerings) > 0 {
			return w.choose(req, opts)
		}
		catalogue, err := instancetype.Embedded()
		if err != nil {
			t.Fatal(err)
		}
		region, err := catalogue.Region("us-west-2")
		if err != nil {
			t.Fatal(err)
		}
		return region.Offerings(v1beta1.Requirements{InstanceTypes: []string{"t3.nanno"}}, opts)
	}
	result := w.must()
	w.want(v1beta1.CellPending, v1beta1.ReasonNoInstanceTypeFits)
	if !strings.Contains(w.message(), "t3.nanno") || result.RequeueAfter == 0 {
		t.Errorf("message %q, requeue %s", w.message(), result.RequeueAfter)
	}
	if w.cell().Status.Launch != nil {
		t.Error("nothing was launched, so there is no intent")
	}
	// The pod's wishes change, and the cell starts.
	w.offerings = all
	cell := w.cell()
	cell.Spec.Requirements.InstanceTypes = []string{"t3.nano"}
	if err := w.api.Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	w.must()
	w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
}

// TestRefusals: each kind of refusal has its reason, and none is for ever.
func TestRefusals(t *testing.T) {
	for kind, tc := range map[cloudprovider.Kind]struct {
		reason string
		phase  v1beta1.CellPhase
		why    string
	}{
		cloudprovider.QuotaExceeded:        {v1beta1.ReasonQuotaExceeded, v1beta1.CellPending, "the cell accepts one capacity type only"},
		cloudprovider.VCPUQuotaExceeded:    {v1beta1.ReasonQuotaExceeded, v1beta1.CellPending, "no offering is smaller"},
		cloudprovider.SubnetFull:           {v1beta1.ReasonSubnetFull, v1beta1.CellPending, "every zone said so"},
		cloudprovider.Throttled:            {v1beta1.ReasonThrottled, v1beta1.CellLaunching, "the same request is repeated"},
		cloudprovider.Denied:               {v1beta1.ReasonDenied, v1beta1.CellPending, "people must act"},
		cloudprovider.InvalidConfiguration: {v1beta1.ReasonInvalidConfiguration, v1beta1.CellPending, "people must act"},
		cloudprovider.Transient:            {v1beta1.ReasonCloudError, v1beta1.CellLaunching, "an instance may exist"},
		cloudprovider.TokenConflict:        {v1beta1.ReasonCloudError, v1beta1.CellLaunching, "an instance may exist"},
	} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(kind)})
			w.add()
			result := w.must()
			w.want(tc.phase, tc.reason)
			if m := w.message(); !strings.Contains(m, "scripted "+string(kind)) {
				t.Errorf("message %q lacks the cloud's answer", m)
			}
			if result.RequeueAfter <= 0 || result.RequeueAfter > 2*time.Minute {
				t.Errorf("%s: requeue after %s", tc.why, result.RequeueAfter)
			}
			if got := w.told(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning "+tc.reason) {
				t.Errorf("events %q, want one of reason %s", got, tc.reason)
			}
			for range 10 { // the same refusal again is no news
				w.clock.Step(time.Minute)
				w.must()
			}
			if got := w.told(); len(got) != 0 {
				t.Errorf("repeated events: %q", got)
			}
			w.cloud.Heal()
			w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
		})
	}
}

func TestQuotaOfSpotFallsBackToOnDemand(t *testing.T) {
	w := newWorld(t)
	spot := w.offerings[0]
	spot.CapacityType, spot.HourlyUSD = v1beta1.Spot, 0.001
	w.offerings = append([]instancetype.Offering{spot}, w.offerings...)
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(cloudprovider.QuotaExceeded),
		If: func(r cloudprovider.LaunchRequest) bool { return r.Launch.CapacityType == v1beta1.Spot }})
	w.add(func(c *v1beta1.Cell) {
		c.Spec.Requirements.CapacityTypes = []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand}
	})
	w.must()
	if l := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting).Status.Launch; l.CapacityType != v1beta1.OnDemand {
		t.Errorf("launched %+v, want on-demand", l)
	}
}

// TestSpotFallsBackOnlyWhenAllowed: on-demand comes when every spot offering was
// refused, for pods that accept it, and says its own price.
func TestSpotFallsBackOnlyWhenAllowed(t *testing.T) {
	catalogue, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	region, err := catalogue.Region("us-west-2")
	if err != nil {
		t.Fatal(err)
	}
	either := []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand}
	for name, tc := range map[string]struct {
		reason  string
		accepts []v1beta1.CapacityType
		soldOut func(v1beta1.LaunchStatus) bool
		want    v1beta1.CapacityType // "" if it waits
	}{
		"spot is left": {
			"a shortage elsewhere is none here", either,
			func(l v1beta1.LaunchStatus) bool { return l.CapacityType == v1beta1.Spot && l.Zone != "us-west-2c" },
			v1beta1.Spot,
		},
		"no spot is left": {
			"the pod accepts on-demand", either,
			func(l v1beta1.LaunchStatus) bool { return l.CapacityType == v1beta1.Spot },
			v1beta1.OnDemand,
		},
		"nothing is left": {
			"it waits for either", either, func(v1beta1.LaunchStatus) bool { return true }, "",
		},
		"spot alone": {
			"nobody asked for on-demand", either[:1],
			func(l v1beta1.LaunchStatus) bool { return l.CapacityType == v1beta1.Spot }, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.kip.cfg.Offerings = region.Offerings
			w.cloud.SoldOut = tc.soldOut
			cell := w.add(func(c *v1beta1.Cell) {
				c.Spec.Requirements.CapacityTypes, c.Spec.Requirements.InstanceTypes = tc.accepts, []string{"t3.nano"}
			})
			w.must()
			if tc.want == "" {
				if n := len(w.cloud.All()); n > 0 {
					t.Errorf("%s: %d instances", tc.reason, n)
				}
				w.want(v1beta1.CellPending, v1beta1.ReasonInsufficientCapacity)
				return
			}
			l := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting).Status.Launch
			if l.CapacityType != tc.want {
				t.Errorf("%s: launched %s, want %s", tc.reason, l.CapacityType, tc.want)
			}
			req := cell.Spec.Requirements
			req.CapacityTypes = []v1beta1.CapacityType{l.CapacityType}
			if price := region.Offerings(req, instancetype.Options{}).Offerings[0].Price(); l.HourlyUSD != price {
				t.Errorf("the price shown is %s, the one paid %s", l.HourlyUSD, price)
			}
		})
	}
}

func TestCellsSpreadOverZones(t *testing.T) {
	w := newWorld(t)
	var asked [][]string
	w.kip.cfg.Offerings = func(req v1beta1.Requirements, opts instancetype.Options) instancetype.Result {
		asked = append(asked, opts.Zones)
		return w.choose(req, opts)
	}
	w.add()
	w.must()
	if len(asked) != 1 || len(asked[0]) != len(w.cloud.Zones) {
		t.Fatalf("asked for offerings in %v, want all zones", asked)
	}
	first := map[string]int{}
	for i := range 3000 {
		uid := types.UID(fmt.Sprintf("0b5f9f5e-%04d-4c1e-9d5c-6f1f7a3e2b10", i))
		zones := spread(w.cloud.Zones, uid)
		if !slices.Equal(zones, spread(w.cloud.Zones, uid)) {
			t.Fatalf("%s: another order at the second look", uid)
		}
		first[zones[0]]++
		if slices.Sort(zones); !slices.Equal(zones, w.cloud.Zones) {
			t.Fatalf("%s: zones %v, want each of them", uid, zones)
		}
	}
	for _, zone := range w.cloud.Zones {
		if n := first[zone]; n < 800 || n > 1200 {
			t.Errorf("%d of 3000 cells begin with %s, want about a third", n, zone)
		}
	}
}

// TestArchitectureWithoutAnImage: nobody made an image for arm64, which is no
// reason to wait for pods that accept amd64 too.
func TestArchitectureWithoutAnImage(t *testing.T) {
	for name, tc := range map[string]struct {
		accepts []string
		want    string // launched architecture, or the reason for waiting
	}{
		"both":  {[]string{"amd64", "arm64"}, "amd64"},
		"arm64": {[]string{"arm64"}, v1beta1.ReasonInvalidConfiguration},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cloud.Architectures = []string{"amd64"}
			w.kip.cfg.Offerings = func(req v1beta1.Requirements, _ instancetype.Options) instancetype.Result {
				o := w.offerings[0]
				if slices.Contains(req.Architectures, "arm64") { // the cheaper one
					o.InstanceType, o.Architecture = "t4g.nano", "arm64"
				}
				return instancetype.Result{Offerings: []instancetype.Offering{o}}
			}
			w.add(func(c *v1beta1.Cell) { c.Spec.Requirements.Architectures = tc.accepts })
			w.must()
			if tc.want != "amd64" {
				w.want(v1beta1.CellPending, tc.want)
				return
			}
			if l := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting).Status.Launch; l.Architecture != tc.want {
				t.Errorf("launched %+v", l)
			}
		})
	}
}

func TestSubnetFullGoesToAnotherZone(t *testing.T) {
	w := newWorld(t)
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(cloudprovider.SubnetFull),
		If: func(r cloudprovider.LaunchRequest) bool { return r.Launch.Zone == "us-west-2a" }})
	w.add()
	w.must()
	if l := w.want(v1beta1.CellBooting, v1beta1.ReasonBooting).Status.Launch; l.Zone != "us-west-2b" || l.InstanceType != "t3.nano" {
		t.Errorf("launched %+v, want t3.nano in us-west-2b", l)
	}
}

func TestUserDataError(t *testing.T) {
	w := newWorld(t)
	w.userData = func(*v1beta1.Cell) ([]byte, error) { return nil, errors.New("user data has 20000 bytes") }
	w.add()
	if result := w.must(); result.RequeueAfter == 0 {
		t.Error("must be tried again")
	}
	w.want(v1beta1.CellPending, v1beta1.ReasonInvalidConfiguration)
	if n := w.cloud.Calls(cloudprovidertest.Create); n != 0 {
		t.Errorf("%d launches", n)
	}
}

// TestLostAnswer: the instance exists although Create failed.
func TestLostAnswer(t *testing.T) {
	for name, then := range map[string]cloudprovider.Kind{
		"repeated": "", "then throttled": cloudprovider.Throttled, "then denied": cloudprovider.Denied,
		"then sold out": cloudprovider.InsufficientCapacity, "then the token conflicts": cloudprovider.TokenConflict,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cloud.VisibleAfter = 10 * time.Second
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 1, AnswerLost: true})
			if then != "" {
				w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(then)})
			}
			cell := w.add()
			w.must()
			w.want(v1beta1.CellLaunching, v1beta1.ReasonCloudError)
			w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
			if n := len(w.cloud.All()); n != 1 {
				t.Errorf("%d instances, want the first", n)
			}
			if got := w.cell().Status.Launch.Number; got != 0 {
				t.Errorf("launch number %d, want 0", got)
			}
			if got := w.cloud.All()[0]; got.CellUID != cell.UID || got.ID != w.cell().Status.InstanceID {
				t.Errorf("recorded %s, launched %+v", w.cell().Status.InstanceID, got)
			}
		})
	}
}

// TestLostRequest: Create failed without an answer and nothing was launched;
// when the offering is then sold out, the next one is tried, but not before
// that is proven.
func TestLostRequest(t *testing.T) {
	w := newWorld(t)
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 1})
	w.cloud.SoldOut = func(l v1beta1.LaunchStatus) bool { return l.InstanceType == "t3.nano" && l.Zone == "us-west-2a" }
	w.add()
	start := w.clock.Now()
	w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
	if took := w.clock.Since(start); took < youngLaunch {
		t.Errorf("gave up the intent after %s: an instance may show up until %s", took, youngLaunch)
	}
	if l := w.cell().Status.Launch; l.Number != 1 || l.Zone != "us-west-2b" {
		t.Errorf("launched %+v", l)
	}
}

func TestBootTimeout(t *testing.T) {
	w := newWorld(t)
	w.add()
	if result := w.must(); result.RequeueAfter != DefaultBootTimeout {
		t.Errorf("requeue after %s", result.RequeueAfter)
	}
	w.clock.Step(DefaultBootTimeout - time.Second)
	w.must()
	w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
	w.clock.Step(time.Second)
	w.must()
	w.want(v1beta1.CellTerminating, v1beta1.ReasonInstanceGone)
	if n := len(w.cloud.Alive()); n != 0 {
		t.Error("the instance must be terminated")
	}
	w.delete()
	w.until("cell gone", func() bool { return w.cell() == nil })
}

func TestBootTimeoutStartsAnewWithKip(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.clock.Step(time.Hour) // Kip is away, nobody could enrol the cell
	w.boot(&mortal{})
	w.must()
	w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
}

func TestInstanceLost(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		happen func(*world, string)
		first  string // what the Cell says first
	}{
		"terminated from outside": {"the state says so", func(w *world, id string) { w.cloud.Kill(id, "Client.UserInitiatedShutdown") }, v1beta1.ReasonUnhealthy},
		"stopped from outside":    {"a cell is single use; a stopped one still costs its volume", func(w *world, id string) { w.cloud.Stop(id, "stopped by hand") }, v1beta1.ReasonUnhealthy},
		"vanished":                {"two looks did not find it", func(w *world, id string) { w.cloud.Forget(id) }, v1beta1.ReasonInstanceGone},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add()
			w.must()
			w.enrol()
			w.podPhase(corev1.PodRunning)
			w.until("running", func() bool { return w.cell().Status.Phase == v1beta1.CellRunning })
			tc.happen(w, w.cell().Status.InstanceID)
			w.until("loss noticed", func() bool { return w.cell().Status.Phase == v1beta1.CellTerminating })
			w.want(v1beta1.CellTerminating, tc.first)
			// Its pod may run until it has ended, so it is not gone before.
			w.until("proven gone", func() bool {
				gone := w.reason() == v1beta1.ReasonInstanceGone
				for _, i := range w.cloud.All() {
					if gone && i.State != cloudprovider.StateTerminated {
						t.Fatalf("%s: it counts as gone and is %s", tc.reason, i.State)
					}
				}
				return gone
			})
			w.delete()
			w.until("cell gone", func() bool { return w.cell() == nil })
		})
	}
}

func TestOneMissingLookIsNoLoss(t *testing.T) {
	w := newWorld(t)
	w.cloud.VisibleAfter = 30 * time.Second
	w.add()
	w.must()
	for range 20 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
		w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
	}
}

func TestDeletedWhilePending(t *testing.T) {
	w := newWorld(t)
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(cloudprovider.Denied)})
	w.add()
	w.must()
	w.delete()
	w.must()
	if w.cell() != nil {
		t.Error("nothing was launched, so the cell must go at once")
	}
}

// TestDeletedWhileUnknown: the intent is written, and whether there is an
// instance is not known.
func TestDeletedWhileUnknown(t *testing.T) {
	for name, lost := range map[string]bool{"answer lost": true, "request lost": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cloud.VisibleAfter = 10 * time.Second
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, AnswerLost: lost})
			w.add()
			w.must()
			w.delete()
			w.boot(&mortal{}) // not even memory is left
			w.must()
			w.want(v1beta1.CellTerminating, v1beta1.ReasonTerminating)
			w.until("cell gone", func() bool { return w.cell() == nil })
			if n := len(w.cloud.Alive()); n != 0 {
				t.Errorf("%d instances leaked", n)
			}
		})
	}
}

func TestTerminationRefused(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Delete, Err: refusal(cloudprovider.Denied)})
	w.delete()
	result := w.must()
	w.want(v1beta1.CellTerminating, v1beta1.ReasonDenied)
	if result.RequeueAfter == 0 || result.RequeueAfter > 2*time.Minute {
		t.Errorf("requeue after %s", result.RequeueAfter)
	}
	w.cloud.Heal()
	w.until("cell gone", func() bool { return w.cell() == nil })
}

func TestFinalizerIsAddedFirst(t *testing.T) {
	w := newWorld(t)
	w.add(func(c *v1beta1.Cell) { c.Finalizers = nil })
	w.must()
	if got := w.cell(); len(got.Finalizers) != 1 || got.Status.Launch != nil {
		t.Errorf("finalizers %q, launch %+v; want the finalizer before anything else", got.Finalizers, got.Status.Launch)
	}
	w.must()
	w.want(v1beta1.CellBooting, v1beta1.ReasonBooting)
}

func TestOtherNodesCellIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.add(func(c *v1beta1.Cell) { c.Spec.NodeName = "kip-provider-1" })
	w.must()
	if got := w.cell(); got.Status.Phase != "" || w.writes != 0 {
		t.Errorf("touched: %+v", got.Status)
	}
}

// TestStaleCache: a reconcile that sees the Cell as it was before our own
// writes does nothing.
func TestStaleCache(t *testing.T) {
	w := newWorld(t)
	old := w.add()
	w.must()
	w.kip.cfg.Client = staleReads{w.kip.cfg.Client, old}
	if result := w.must(); result.RequeueAfter == 0 {
		t.Error("must look again soon")
	}
	if n := w.cloud.Calls(cloudprovidertest.Create); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	// So does one that sees the intent, but not yet what came of it.
	intent := w.cell()
	version, err := strconv.Atoi(intent.ResourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	intent.ResourceVersion = strconv.Itoa(version - 1)
	intent.Status.Phase, intent.Status.InstanceID = v1beta1.CellLaunching, ""
	w.kip.cfg.Client = staleReads{w.kip.cfg.Client, intent}
	w.must()
	if n := w.cloud.Calls(cloudprovidertest.Create); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	// A Kip that remembers nothing is stopped by the lock.
	w.boot(&mortal{})
	w.kip.cfg.Client = staleReads{w.kip.cfg.Client, old}
	w.must()
	if n := w.cloud.Calls(cloudprovidertest.Create); n != 1 {
		t.Errorf("%d launches on a stale read, want 1", n)
	}
}

type staleReads struct {
	client.Client
	cell *v1beta1.Cell
}

func (c staleReads) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if into, ok := obj.(*v1beta1.Cell); ok {
		c.cell.DeepCopyInto(into)
		return nil
	}
	return c.Client.Get(ctx, key, obj, opts...)
}

// TestOfferings: what waits for a pod is compared with what would be launched,
// and is none the worse for what cannot be launched now.
func TestOfferings(t *testing.T) {
	w := newWorld(t)
	spec := v1beta1.CellSpec{NodeName: testNode}
	fit, next, err := w.kip.Offerings(t.Context(), spec)
	if err != nil || len(fit) != len(w.offerings) || next == nil || next.InstanceType != "t3.nano" {
		t.Fatalf("%d fit, next is %+v, %v", len(fit), next, err)
	}
	for _, o := range w.offerings {
		if o.InstanceType == "t3.nano" {
			w.kip.unavailable.Mark(o.Key(), w.clock.Now())
		}
	}
	if fit, next, err = w.kip.Offerings(t.Context(), spec); err != nil || len(fit) != len(w.offerings) || next == nil || next.InstanceType != "t3.micro" {
		t.Errorf("t3.nano sold out: %d fit, next is %+v, %v", len(fit), next, err)
	}
	for _, o := range w.offerings {
		w.kip.unavailable.Mark(o.Key(), w.clock.Now())
	}
	if fit, next, err = w.kip.Offerings(t.Context(), spec); err != nil || len(fit) != len(w.offerings) || next != nil {
		t.Errorf("all sold out: %d fit, next is %+v, %v", len(fit), next, err)
	}
}
