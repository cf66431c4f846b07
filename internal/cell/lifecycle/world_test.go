package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const (
	testNode = "kip-provider-0"
	testCell = "cell-1"
)

// world is what outlives a Kip: API server, cloud and time.
type world struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	api   client.WithWatch
	cloud *cloudprovidertest.Cloud

	offerings []instancetype.Offering
	userData  func(*v1beta1.Cell) ([]byte, error)
	limits    limits.Limits
	listens   bool // the agent was reached
	// on is what happens, once, as soon as an instance is in a state.
	on map[cloudprovider.State]func(id string)
	// cached is what Kip's cache has of a Cell instead of what is so; may be nil.
	cached func(name string) (cell *v1beta1.Cell, stale bool)

	// The present Kip.
	kip    *Reconciler
	events *record.FakeRecorder
	life   *mortal
	writes int
}

// mortal counts the calls of one Kip and kills it at one of them.
type mortal struct {
	mu    sync.Mutex
	calls int
	// at is the call at which it dies, before or after it has its effect; 0 never.
	at    int
	after bool
	dead  bool
}

var errKilled = errors.New("killed")

// do runs a call if the Kip lives.
func (m *mortal) do(call func() error) error {
	m.mu.Lock()
	m.calls++
	dies := m.at != 0 && m.calls == m.at
	if m.dead || dies && !m.after {
		m.dead = true
		m.mu.Unlock()
		return errKilled
	}
	m.mu.Unlock()
	err := call()
	if dies {
		m.mu.Lock()
		m.dead = true
		m.mu.Unlock()
		return errKilled
	}
	return err
}

// mortalCloud is the cloud as a Kip that may die calls it.
type mortalCloud struct {
	*cloudprovidertest.Fake
	life *mortal
}

func (c mortalCloud) Create(ctx context.Context, req cloudprovider.LaunchRequest) (i *cloudprovider.Instance, err error) {
	err = c.life.do(func() (err error) { i, err = c.Fake.Create(ctx, req); return err })
	if errors.Is(err, errKilled) {
		i = nil
	}
	return i, err
}

// List changes nothing, so dying at it is dying before the next call that does.
func (c mortalCloud) List(ctx context.Context) ([]cloudprovider.Instance, error) {
	if c.life.dead {
		return nil, errKilled
	}
	return c.Fake.List(ctx)
}

func (c mortalCloud) ListCells(ctx context.Context, cells []types.UID) ([]cloudprovider.Instance, error) {
	if c.life.dead {
		return nil, errKilled
	}
	return c.Fake.ListCells(ctx, cells)
}

func (c mortalCloud) Delete(ctx context.Context, id string) error {
	return c.life.do(func() error { return c.Fake.Delete(ctx, id) })
}

func (c mortalCloud) Stop(ctx context.Context, id string) error {
	return c.life.do(func() error { return c.Fake.Stop(ctx, id) })
}

func (c mortalCloud) Start(ctx context.Context, id string) error {
	return c.life.do(func() error { return c.Fake.Start(ctx, id) })
}

func (c mortalCloud) EnsureRoutes(ctx context.Context, to cloudprovider.RouteTarget, networks []string) error {
	return c.life.do(func() error { return c.Fake.EnsureRoutes(ctx, to, networks) })
}

func (c mortalCloud) RemoveRoutes(ctx context.Context, to cloudprovider.RouteTarget) error {
	return c.life.do(func() error { return c.Fake.RemoveRoutes(ctx, to) })
}

func newWorld(t *testing.T) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	w := &world{
		t: t, clock: clk, cloud: cloudprovidertest.New(clk),
		api: fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.Cell{}, &corev1.Pod{}).
			WithIndex(&v1beta1.Cell{}, indexPodUID, podUIDs).Build(),
		userData: func(*v1beta1.Cell) ([]byte, error) { return []byte("{}"), nil },
	}
	w.cloud.PendingFor, w.cloud.ShuttingDownFor = 2*time.Second, 2*time.Second
	for i, name := range []string{"t3.nano", "t3.micro", "t3.small"} {
		for _, zone := range w.cloud.Zones {
			w.offerings = append(w.offerings, instancetype.Offering{
				InstanceType: name, Zone: zone, CapacityType: v1beta1.OnDemand, Architecture: "amd64", HourlyUSD: 0.005 * float64(i+1),
			})
		}
	}
	w.boot(&mortal{})
	return w
}

// boot starts another Kip on the same world.
func (w *world) boot(life *mortal) {
	w.t.Helper()
	w.life, w.events = life, record.NewFakeRecorder(10000)
	api := interceptor.NewClient(w.api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if life.dead {
				return errKilled
			}
			if cell, ok := obj.(*v1beta1.Cell); ok && w.cached != nil {
				if old, stale := w.cached(key.Name); stale {
					if old == nil {
						return apierrors.NewNotFound(schema.GroupResource{Group: v1beta1.GroupVersion.Group, Resource: "cells"}, key.Name)
					}
					old.DeepCopyInto(cell)
					return nil
				}
			}
			return c.Get(ctx, key, obj, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			w.writes++
			return life.do(func() error { return c.Patch(ctx, obj, patch, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			w.writes++
			return life.do(func() error { return c.SubResource(sub).Patch(ctx, obj, patch, opts...) })
		},
	})
	cloud := mortalCloud{w.cloud.Provider("test"), life}
	kip, err := New(Config{
		Client: api, Live: w.api, Limits: w.limits, Cloud: cloud, Routes: cloud, NodeName: testNode,
		Offerings: w.choose, UserData: func(c *v1beta1.Cell) ([]byte, error) { return w.userData(c) },
		Listens: func(string) bool { return w.listens },
		Clock:   w.clock, Events: w.events, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.kip = kip
}

// choose is a catalogue of a few offerings that always fit, in a given order.
func (w *world) choose(req v1beta1.Requirements, opts instancetype.Options) (result instancetype.Result) {
	for _, o := range w.offerings {
		_, avoided := opts.Unavailable.Until(o.Key(), opts.Now)
		accepted := len(req.CapacityTypes) == 0 && o.CapacityType == v1beta1.OnDemand
		for _, ct := range req.CapacityTypes {
			accepted = accepted || ct == o.CapacityType
		}
		zone := len(opts.Zones) == 0
		for _, z := range opts.Zones {
			zone = zone || z == o.Zone
		}
		if !avoided && accepted && zone {
			result.Offerings = append(result.Offerings, o)
		}
	}
	if len(result.Offerings) == 0 {
		return empty(w.t, opts)
	}
	return result
}

// empty is the real catalogue's answer when nothing fits. Of one type that is
// offered in three zones, all are marked, if any is.
func empty(t *testing.T, opts instancetype.Options) instancetype.Result {
	t.Helper()
	catalogue, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	region, err := catalogue.Region("us-west-2")
	if err != nil {
		t.Fatal(err)
	}
	return region.Offerings(v1beta1.Requirements{
		CPU: resource.MustParse("100m"), Memory: resource.MustParse("100Mi"), InstanceTypes: []string{"t3.small"},
	}, opts)
}

// add writes a Cell, as the provider does, and its pod.
func (w *world) add(change ...func(*v1beta1.Cell)) *v1beta1.Cell {
	w.t.Helper()
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{
			Name: testCell, UID: "11111111-2222-3333-4444-555555555555", Finalizers: []string{v1beta1.Finalizer},
			Labels: map[string]string{v1beta1.LabelNode: testNode},
		},
		Spec: v1beta1.CellSpec{
			NodeName: testNode, Pod: &v1beta1.PodReference{Namespace: "default", Name: "web", UID: "pod-uid"},
			Requirements: v1beta1.Requirements{CPU: resource.MustParse("100m"), Memory: resource.MustParse("64Mi")},
		},
	}
	for _, c := range change {
		c(cell)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "pod-uid"}, Spec: corev1.PodSpec{NodeName: testNode}}
	for _, o := range []client.Object{cell, pod} {
		if err := w.api.Create(w.t.Context(), o); err != nil {
			w.t.Fatal(err)
		}
	}
	return cell
}

// cell reads the Cell, nil if it is gone.
func (w *world) cell() *v1beta1.Cell {
	w.t.Helper()
	cell := &v1beta1.Cell{}
	err := w.api.Get(w.t.Context(), types.NamespacedName{Name: testCell}, cell)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return cell
}

// reconcile runs once, and checks what must hold after every step.
func (w *world) reconcile() (reconcile.Result, error) {
	w.t.Helper()
	result, err := w.kip.Reconcile(w.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: testCell}})
	w.invariants()
	return result, err
}

// must is reconcile without an error.
func (w *world) must() reconcile.Result {
	w.t.Helper()
	result, err := w.reconcile()
	if err != nil {
		w.t.Fatalf("Reconcile: %v", err)
	}
	return result
}

// tick lets a second go by, looks at the cloud and reconciles.
func (w *world) tick() error {
	w.t.Helper()
	w.clock.Step(time.Second)
	for _, i := range w.cloud.Alive() {
		if do := w.on[i.State]; do != nil {
			delete(w.on, i.State)
			do(i.ID)
		}
	}
	if _, err := w.kip.Observe(w.t.Context()); err != nil && w.life.dead {
		return err
	}
	_, err := w.reconcile()
	return err
}

// until ticks until something holds, a few minutes at most.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for range 400 {
		if holds() {
			return
		}
		if err := w.tick(); err != nil {
			w.t.Fatalf("waiting for %s: %v", what, err)
		}
	}
	w.t.Fatalf("never happened: %s; cell is %+v", what, w.cell())
}

// invariants are design's first: no instance without a Cell, none twice.
func (w *world) invariants() {
	w.t.Helper()
	alive := w.cloud.Alive()
	if len(alive) > 1 {
		w.t.Fatalf("%d instances for one cell: %+v", len(alive), alive)
	}
	if w.cell() == nil && len(alive) > 0 {
		w.t.Fatalf("instance without a cell: %+v", alive)
	}
}

// enrol does what the connection controller does.
func (w *world) enrol() {
	w.t.Helper()
	cell := w.cell()
	base := cell.DeepCopy()
	cell.Status.Enrolment = &v1beta1.EnrolmentStatus{KeySHA256: "abc", Time: metav1.NewTime(w.clock.Now())}
	if err := w.api.Status().Patch(w.t.Context(), cell, client.MergeFrom(base)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) podPhase(phase corev1.PodPhase) {
	w.t.Helper()
	pod := &corev1.Pod{}
	if err := w.api.Get(w.t.Context(), types.NamespacedName{Namespace: "default", Name: "web"}, pod); err != nil {
		w.t.Fatal(err)
	}
	pod.Status.Phase = phase
	if err := w.api.Status().Update(w.t.Context(), pod); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete() {
	w.t.Helper()
	if cell := w.cell(); cell != nil {
		if err := w.api.Delete(w.t.Context(), cell); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) want(phase v1beta1.CellPhase, reason string) *v1beta1.Cell {
	w.t.Helper()
	cell := w.cell()
	if cell == nil {
		w.t.Fatalf("the cell is gone, want %s, %s", phase, reason)
	}
	got := ""
	if c := meta.FindStatusCondition(cell.Status.Conditions, v1beta1.ConditionReady); c != nil {
		got = c.Reason
		if c.Message == "" {
			w.t.Errorf("condition %s without a message", c.Reason)
		}
	}
	if cell.Status.Phase != phase || got != reason {
		w.t.Fatalf("cell is %s, %s; want %s, %s: %+v", cell.Status.Phase, got, phase, reason, cell.Status.Conditions)
	}
	return cell
}

// message is the condition's.
func (w *world) message() string {
	if c := meta.FindStatusCondition(w.cell().Status.Conditions, v1beta1.ConditionReady); c != nil {
		return c.Message
	}
	return ""
}

// told drains the events.
func (w *world) told() (events []string) {
	for {
		select {
		case e := <-w.events.Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

func refusal(kind cloudprovider.Kind) *cloudprovider.Error {
	return &cloudprovider.Error{Kind: kind, Action: "ec2:RunInstances", Code: string(kind), Message: fmt.Sprintf("scripted %s", kind)}
}
