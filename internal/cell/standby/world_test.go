package standby

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const testNode = "kip-provider-0"

var nanos = Pool{InstanceType: "t3.nano", Architecture: instancetype.AMD64, CapacityType: v1beta1.OnDemand, Count: 3}

// world is the API server with a cache that can lag, and what else a Controller
// asks. It also stands for the lifecycle controller.
type world struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	api   client.WithWatch
	// stale, if not nil, is what the cache says of cells.
	stale []v1beta1.Cell
	fail  func(call string) error

	configuration string
	zones         []string
	unreachable   map[string]bool
	full          map[string]bool // namespaces at their limit
	given         map[string]string
	region        *instancetype.Region
	soldOut       *instancetype.Unavailable

	kip *Controller
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	catalogue, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	region, err := catalogue.Region("us-west-2")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
		api: fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.Cell{}).
			WithIndex(&v1beta1.Cell{}, indexWaiting, waitingFor).Build(),
		configuration: "first", zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"},
		unreachable: map[string]bool{}, full: map[string]bool{}, given: map[string]string{}, region: region, soldOut: &instancetype.Unavailable{},
	}
	w.restart(change...)
	return w
}

// restart starts another Kip on the same world, with one pool of three cells
// unless it is changed.
func (w *world) restart(change ...func(*Config)) {
	w.t.Helper()
	cfg := Config{
		Client: interceptor.NewClient(w.api, interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
				if w.stale != nil {
					l.(*v1beta1.CellList).Items = w.stale
					return nil
				}
				return c.List(ctx, l, opts...)
			},
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
				o.SetUID(types.UID("uid-of-" + o.GetName()))
				o.SetCreationTimestamp(metav1.NewTime(w.clock.Now()))
				return w.hook("create", func() error { return c.Create(ctx, o, opts...) })
			},
			Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
				return w.hook("delete", func() error { return c.Delete(ctx, o, opts...) })
			},
		}),
		NodeName: testNode, Pools: []Pool{nanos},
		Configuration: func(context.Context, string) (string, error) { return w.configuration, nil },
		Zones:         func(context.Context) ([]string, error) { return w.zones, nil },
		Offerings: func(_ context.Context, spec v1beta1.CellSpec) ([]instancetype.Offering, *instancetype.Offering, error) {
			fit := w.region.Offerings(spec.Requirements, instancetype.Options{}).Offerings
			now := w.region.Offerings(spec.Requirements, instancetype.Options{Unavailable: w.soldOut, Now: w.clock.Now(), Limit: 1}).Offerings
			if len(now) == 0 {
				return fit, nil, nil
			}
			return fit, &now[0], nil
		},
		Limits: w, Reachable: func(cell string) bool { return !w.unreachable[cell] }, VolumeGiB: 10,
		Startable: func(c *v1beta1.Cell) bool { return !w.unreachable[c.Name] },
		Clock:     w.clock, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	kip, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.kip = kip
}

func pool(pools ...Pool) func(*Config) { return func(c *Config) { c.Pools = pools } }

func (w *world) hook(call string, do func() error) error {
	if w.fail != nil {
		if err := w.fail(call); err != nil {
			return err
		}
	}
	return do()
}

// Give and TakeBack are those of the ledger.
func (w *world) Give(cell *v1beta1.Cell, namespace string) bool {
	if w.full[namespace] {
		return false
	}
	w.given[cell.Name] = namespace
	return true
}

func (w *world) TakeBack(cell *v1beta1.Cell) { delete(w.given, cell.Name) }

func (w *world) look() (reconcile.Result, error) {
	w.t.Helper()
	return w.kip.Reconcile(w.t.Context(), pools)
}

func (w *world) must() reconcile.Result {
	w.t.Helper()
	r, err := w.look()
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// cells are those that are not being deleted, oldest first.
func (w *world) cells() []v1beta1.Cell {
	w.t.Helper()
	var list v1beta1.CellList
	if err := w.api.List(w.t.Context(), &list); err != nil {
		w.t.Fatal(err)
	}
	alive := slices.DeleteFunc(list.Items, func(c v1beta1.Cell) bool { return c.DeletionTimestamp != nil })
	slices.SortFunc(alive, func(a, b v1beta1.Cell) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return alive
}

func (w *world) change(cell *v1beta1.Cell, change func(*v1beta1.Cell)) {
	w.t.Helper()
	change(cell)
	if err := w.api.Status().Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
}

// up has all cells booted, and enrolled or stopped.
func (w *world) up() {
	w.t.Helper()
	for _, c := range w.cells() {
		if c.Status.Phase == "" {
			w.change(&c, booted)
		}
	}
}

func booted(c *v1beta1.Cell) {
	zone := "us-west-2a"
	if z := c.Spec.Requirements.Zones; len(z) > 0 {
		zone = z[0]
	}
	if c.Spec.Standby.Stopped {
		c.Status.Phase, c.Status.Stop = v1beta1.CellStopped, &v1beta1.StopStatus{Stopped: &metav1.Time{Time: c.CreationTimestamp.Time}}
	} else {
		c.Status.Phase, c.Status.Enrolment = v1beta1.CellReady, &v1beta1.EnrolmentStatus{KeySHA256: "k"}
	}
	c.Status.Launch = &v1beta1.LaunchStatus{InstanceType: c.Spec.Requirements.InstanceTypes[0], Zone: zone, CapacityType: c.Spec.Requirements.CapacityTypes[0]}
}

func waitsFor(reason string) func(*v1beta1.Cell) {
	return func(c *v1beta1.Cell) {
		c.Status.Phase = v1beta1.CellPending
		meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: v1beta1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: "it waits"})
	}
}

// take gives a cell a pod, as the provider does.
func (w *world) take(cell *v1beta1.Cell) {
	w.t.Helper()
	cell.Spec.Pod = &v1beta1.PodReference{Namespace: "default", Name: "web", UID: types.UID("pod-of-" + cell.Name)}
	if err := w.api.Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
}

// waiting are the cells without a pod.
func (w *world) waiting() []v1beta1.Cell {
	return slices.DeleteFunc(w.cells(), func(c v1beta1.Cell) bool { return !c.Waiting() })
}

// pod is what a small pod asks for.
func pod(change ...func(*v1beta1.CellSpec)) v1beta1.CellSpec {
	spec := v1beta1.CellSpec{
		NodeName: testNode, Pod: &v1beta1.PodReference{Namespace: "default", Name: "web", UID: "pod"},
		Requirements: v1beta1.Requirements{
			CPU: resource.MustParse("10m"), Memory: resource.MustParse("64Mi"), Architectures: []string{instancetype.AMD64},
			CapacityTypes: []v1beta1.CapacityType{v1beta1.OnDemand},
		},
	}
	for _, c := range change {
		c(&spec)
	}
	return spec
}
