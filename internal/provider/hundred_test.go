package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/lifecycle"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/podlogs"
)

// fleet is a hundred pods on a hundred simulated instances: provider, lifecycle
// controller and gateway are the real ones, one Kip of them, and all else
// happens by the second of a clock that the test moves. What is simulated is
// small and strict: the API server's fake, a cloud in memory, a ReplicaSet,
// kubelets that speak to the gateway over HTTP, and programs that take their
// time to end.
type fleet struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	api   client.WithWatch
	cloud *cloudprovidertest.Cloud
	logs  *podlogs.Store

	kip     *Provider
	cells   *lifecycle.Reconciler
	gateway *gateway.Gateway
	events  *record.FakeRecorder

	deletions map[types.UID]deletion
	// dirty is what changed and was not looked at; later is what asked to be
	// looked at again. Keys are a pod's name, or a cell's after "cell/".
	dirty map[string]bool
	later map[string]time.Time

	kubelets map[string]*simulatedKubelet // by cell
	// cached are the Cells as the last change left them: the fake API server
	// takes long for a list.
	cached map[string]*v1beta1.Cell
	// deadlines are when the cloud takes instances.
	deadlines map[string]time.Time
	// disrupted are the pods that said why they end.
	disrupted map[types.UID]bool
	told      []string
}

// simulatedKubelet runs the pod of one cell.
type simulatedKubelet struct {
	running  bool
	runs     *corev1.Pod
	takes    time.Duration // from SIGTERM to the program's end
	termed   time.Time     // SIGTERM
	grace    time.Duration
	exited   time.Time
	exitCode int32
	said     corev1.PodPhase
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	logs, err := podlogs.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	f := &fleet{
		t: t, clock: clk, cloud: cloudprovidertest.New(clk), logs: logs,
		deletions: map[types.UID]deletion{}, dirty: map[string]bool{}, later: map[string]time.Time{},
		kubelets: map[string]*simulatedKubelet{}, cached: map[string]*v1beta1.Cell{}, deadlines: map[string]time.Time{}, disrupted: map[types.UID]bool{},
	}
	f.cloud.PendingFor, f.cloud.ShuttingDownFor = 8*time.Second, 30*time.Second
	f.api = apiServer(t).Build()
	f.start()
	return f
}

// start starts a Kip that remembers nothing.
func (f *fleet) start() {
	f.t.Helper()
	if f.events != nil {
		f.drain()
	}
	f.events = record.NewFakeRecorder(100000)
	api := interceptor.NewClient(f.api, interceptor.Funcs{
		Get: f.get, List: f.list,
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			o.SetUID(types.UID(fmt.Sprintf("%s@%d", o.GetName(), f.clock.Now().Unix())))
			return f.changed(o, c.Create(ctx, o, opts...))
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return f.changed(o, c.Update(ctx, o, opts...))
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return f.changed(o, c.Patch(ctx, o, p, opts...))
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return f.changed(o, c.SubResource(sub).Patch(ctx, o, p, opts...))
		},
		Delete: f.delete,
	})
	log := slog.New(slog.DiscardHandler)
	kip, err := New(Config{
		Client: api, Live: api, NodeName: testNode, Region: "us-west-2",
		Capacity:  func(string) (corev1.ResourceList, bool) { return nil, false },
		Transport: func(string) (http.RoundTripper, error) { return &fakeKubelet{}, nil },
		Health:    allWell{},
		Following: func(string) bool { return false },
		Logs:      f.logs, Recorder: f.events, Metrics: prometheus.NewRegistry(), Clock: f.clock, Log: log,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	kip.NotifyPods(f.t.Context(), f.written)
	cells, err := lifecycle.New(lifecycle.Config{
		Client: api, Live: api, Cloud: f.cloud.Provider("test"), NodeName: testNode,
		Offerings: f.choose, UserData: func(*v1beta1.Cell) ([]byte, error) { return []byte("{}"), nil },
		Clock: f.clock, Events: f.events, Metrics: prometheus.NewRegistry(), Logger: log,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{
		State: kip, Sink: kip, Registries: noRegistries{}, PodMetrics: noPodMetrics{}, Upstream: &rest.Config{Host: "http://127.0.0.1:0"}, Client: kubefake.NewClientset(),
		Clock: f.clock, Metrics: prometheus.NewRegistry(), Log: log,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.kip, f.cells, f.gateway = kip, cells, g
	for _, c := range f.allCells() {
		f.dirty["cell/"+c.Name] = true
		f.dirty[c.Spec.Pod.Name] = true
		f.kip.cellChanged(&c)
	}
}

// noPodMetrics: nobody reports.
type noPodMetrics struct{}

func (noPodMetrics) Report(string, *corev1.Pod, []byte) error { return nil }

// noRegistries: nothing is pulled.
type noRegistries struct{}

func (noRegistries) Login(context.Context, *corev1.Pod, string) (*gateway.RegistryLogin, error) {
	return nil, nil
}

// choose offers nine offerings, always in the same order.
func (f *fleet) choose(_ v1beta1.Requirements, opts instancetype.Options) (r instancetype.Result) {
	for _, name := range []string{"t3.nano", "t3a.nano", "t3.micro"} {
		for _, zone := range f.cloud.Zones {
			o := instancetype.Offering{InstanceType: name, Zone: zone, CapacityType: v1beta1.Spot, Architecture: "amd64", HourlyUSD: 0.002}
			if _, avoided := opts.Unavailable.Until(o.Key(), opts.Now); !avoided {
				r.Offerings = append(r.Offerings, o)
			}
		}
	}
	return r
}

func (f *fleet) key(o client.Object) []string {
	if c, ok := o.(*v1beta1.Cell); ok {
		return []string{"cell/" + c.Name, c.Spec.Pod.Name}
	}
	keys := []string{o.GetName()}
	for _, c := range f.cached {
		if c.Spec.Pod.Name == o.GetName() {
			keys = append(keys, "cell/"+c.Name)
		}
	}
	return keys
}

func (f *fleet) changed(o client.Object, err error) error {
	if err != nil {
		return err
	}
	for _, k := range f.key(o) {
		f.dirty[k] = true
	}
	if _, ok := o.(*v1beta1.Cell); !ok {
		return nil
	}
	c := &v1beta1.Cell{}
	if err := f.api.Get(context.Background(), client.ObjectKeyFromObject(o), c); err != nil {
		f.kip.cellGone(o.(*v1beta1.Cell))
		delete(f.cached, o.GetName())
		return client.IgnoreNotFound(err)
	}
	f.cached[c.Name] = c
	f.kip.cellChanged(c)
	return nil
}

// list answers what Kip asks of its cache by an index: the cells of a
// pod.
func (f *fleet) list(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
	var options client.ListOptions
	options.ApplyOptions(opts)
	cells, ok := l.(*v1beta1.CellList)
	if !ok || options.FieldSelector == nil {
		return c.List(ctx, l, opts...)
	}
	for _, c := range f.cached {
		if options.FieldSelector.Matches(fields.Set{
			cellsByPod: c.Spec.Pod.Namespace + "/" + c.Spec.Pod.Name, "spec.pod.uid": string(c.Spec.Pod.UID),
		}) {
			cells.Items = append(cells.Items, *c.DeepCopy())
		}
	}
	return nil
}

func (f *fleet) get(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if err := c.Get(ctx, key, o, opts...); err != nil {
		return err
	}
	if d, ok := f.deletions[o.GetUID()]; ok {
		grace := d.grace
		o.SetDeletionTimestamp(&d.at)
		o.SetDeletionGracePeriodSeconds(&grace)
	}
	return nil
}

func (f *fleet) delete(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
	var options client.DeleteOptions
	options.ApplyOptions(opts)
	if g := options.GracePeriodSeconds; g != nil && *g > 0 {
		if !f.disrupted[o.GetUID()] {
			f.t.Errorf("%s is deleted before it says why", o.GetName())
		}
		f.deletions[o.GetUID()] = deletion{metav1.NewTime(f.clock.Now().Add(time.Duration(*g) * time.Second)), *g}
		return f.changed(o, nil)
	}
	return f.changed(o, c.Delete(ctx, o, opts...))
}

// written does what the library does.
func (f *fleet) written(pod *corev1.Pod) {
	var now corev1.Pod
	if err := f.api.Get(context.Background(), client.ObjectKeyFromObject(pod), &now); err != nil {
		return
	}
	now.Status = pod.Status
	if err := f.changed(&now, f.api.Status().Update(context.Background(), &now)); err != nil {
		f.t.Error(err)
	}
	if c := condition(&now.Status, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue && strings.Contains(c.Message, "spot-interruption") {
		f.disrupted[now.UID] = true
	}
}

func (f *fleet) allCells() []v1beta1.Cell {
	var cells []v1beta1.Cell
	for _, name := range slices.Sorted(maps.Keys(f.cached)) {
		cells = append(cells, *f.cached[name].DeepCopy())
	}
	return cells
}

// work has Kip look at everything that changed, until nothing does.
func (f *fleet) work() {
	for round := range 100 {
		now := f.clock.Now()
		for k, at := range f.later {
			if !at.After(now) {
				f.dirty[k] = true
				delete(f.later, k)
			}
		}
		if len(f.dirty) == 0 {
			return
		}
		keys := slices.Sorted(maps.Keys(f.dirty))
		clear(f.dirty)
		for _, k := range keys {
			var r reconcile.Result
			var err error
			if name, ok := strings.CutPrefix(k, "cell/"); ok {
				r, err = f.cells.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: name}})
			} else {
				r, err = f.kip.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: k}})
			}
			if err != nil {
				f.t.Fatalf("%s, round %d: %v", k, round, err)
			}
			if r.RequeueAfter > 0 {
				f.later[k] = now.Add(max(r.RequeueAfter, time.Second))
			}
		}
	}
	f.t.Fatalf("no end of changes: %v", f.dirty)
}

// second lets one go by for everybody.
func (f *fleet) second() {
	f.clock.Step(time.Second)
	for _, i := range f.cloud.Alive() {
		if at, ok := f.deadlines[i.ID]; ok && !f.clock.Now().Before(at) {
			f.cloud.Kill(i.ID, "Server.SpotInstanceTermination")
		}
	}
	names, err := f.cells.Observe(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, n := range names {
		f.dirty["cell/"+n] = true
	}
	f.work()
	running := map[string]bool{}
	for _, i := range f.cloud.Alive() {
		running[i.ID] = i.State == cloudprovider.StateRunning
	}
	alive := map[string]bool{}
	for _, c := range f.allCells() {
		if !running[c.Status.InstanceID] {
			continue
		}
		alive[c.Name] = true
		if c.Status.Enrolment == nil {
			c.Status.Enrolment = &v1beta1.EnrolmentStatus{KeySHA256: "key of " + c.Name, Time: metav1.NewTime(f.clock.Now())}
			if err := f.changed(&c, f.api.Status().Update(f.t.Context(), &c)); err != nil {
				f.t.Fatal(err)
			}
		}
		f.kubelet(c.Name)
	}
	for name, k := range f.kubelets {
		if !alive[name] {
			k.running = false // with its instance
		}
	}
	f.work()
	f.drain()
	f.once()
}

// once checks that no pod runs in two cells.
func (f *fleet) once() {
	where := map[types.UID]string{}
	for name, k := range f.kubelets {
		if !k.running {
			continue
		}
		if other := where[k.runs.UID]; other != "" {
			f.t.Fatalf("pod %s runs in %s and in %s", k.runs.Name, name, other)
		}
		where[k.runs.UID] = name
	}
}

func (f *fleet) drain() {
	for {
		select {
		case e := <-f.events.Events:
			f.told = append(f.told, e)
		default:
			return
		}
	}
}

// ask is a request of a cell. It is not sent while it would be held, which the
// clock of the test would not end.
func (f *fleet) ask(cell, method, path, contentType string, body any) (int, []byte) {
	if _, ok := f.kip.Cell(cell); !ok {
		return http.StatusServiceUnavailable, nil
	}
	data, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	var reader io.Reader = http.NoBody
	if body != nil {
		reader = strings.NewReader(string(data))
	}
	r := httptest.NewRequest(method, path, reader)
	if body != nil {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	f.gateway.ForCell(cell).ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// kubelet is a second of one cell's agent and kubelet.
func (f *fleet) kubelet(cell string) {
	k := f.kubelets[cell]
	if k == nil {
		k = &simulatedKubelet{}
		f.kubelets[cell] = k
	}
	code, body := f.ask(cell, http.MethodGet, "/api/v1/pods", "", nil)
	var list corev1.PodList
	if code != http.StatusOK {
		return
	}
	if err := json.Unmarshal(body, &list); err != nil {
		f.t.Fatal(err)
	}
	if len(list.Items) == 0 {
		k.running = false
		return
	}
	pod, now := &list.Items[0], f.clock.Now()
	if k.runs == nil {
		k.runs, k.running = pod, pod.DeletionTimestamp == nil
		k.takes, _ = time.ParseDuration(pod.Annotations["takes"])
	}
	if pod.DeletionTimestamp != nil && k.termed.IsZero() {
		k.termed, k.grace = now, time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second
	}
	if k.running && !k.termed.IsZero() {
		switch ran := now.Sub(k.termed); {
		case ran >= k.takes:
			k.running, k.exited = false, now
		case ran >= k.grace:
			k.running, k.exited, k.exitCode = false, now, 137
		}
	}
	k.said = corev1.PodRunning
	if !k.running {
		k.said = corev1.PodSucceeded
		if k.exitCode != 0 {
			k.said = corev1.PodFailed
		}
	}
	path := "/api/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name
	if pod.Status.Phase != k.said {
		f.ask(cell, http.MethodPatch, path+"/status", "application/strategic-merge-patch+json", map[string]any{
			"metadata": map[string]any{"uid": pod.UID}, "status": f.status(k),
		})
		return
	}
	if !k.running && pod.DeletionTimestamp != nil {
		f.ask(cell, http.MethodDelete, path, "application/json",
			metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	}
}

func (f *fleet) status(k *simulatedKubelet) corev1.PodStatus {
	s := statusOf(k.said)
	s.PodIP = "" // the simulated cloud's addresses are others
	if c := &s.ContainerStatuses[0]; c.State.Terminated != nil {
		c.State.Terminated.FinishedAt, c.State.Terminated.ExitCode = metav1.NewTime(k.exited), k.exitCode
	}
	return s
}

// add makes a pod whose program takes a while to end.
func (f *fleet) add(name string, takes, grace time.Duration, change func(*corev1.Pod)) {
	f.t.Helper()
	pod := newPod(func(p *corev1.Pod) {
		p.Name, p.UID = name, types.UID("uid-of-"+name)
		p.Annotations = map[string]string{"takes": takes.String(), "pod.elotl.co/launch-type": "spot"}
		p.Spec.InitContainers = nil
		p.Spec.Containers = []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")},
		}}}
		p.Spec.TerminationGracePeriodSeconds = new(int64(grace / time.Second))
		change(p)
	})
	if err := f.changed(pod, f.api.Create(f.t.Context(), pod)); err != nil {
		f.t.Fatal(err)
	}
}

// replicaSet makes a new pod for each that is being deleted or gone.
func (f *fleet) replicaSet(takes, grace time.Duration, slots map[int]string) {
	for i, name := range slots {
		var pod corev1.Pod
		err := f.api.Get(f.t.Context(), types.NamespacedName{Namespace: "default", Name: name}, &pod)
		if _, deleted := f.deletions[pod.UID]; err == nil && !deleted {
			continue
		}
		slots[i] = name + "-r"
		f.add(slots[i], takes, grace, owned)
	}
}

// TestHundredInterruptions takes a hundred spot instances at once, and kills
// Kip ten seconds later: every pod gets SIGTERM and its grace period, or what
// the two minutes leave of it; every replacement is launched before them; each
// pod says why; and no pod runs twice at any second.
func TestHundredInterruptions(t *testing.T) {
	ofReplicaSet, bare, once := 60, 25, 15
	if raced {
		ofReplicaSet, bare, once = 6, 3, 2
	}
	taken := ofReplicaSet + bare + once
	f := newFleet(t)
	slots := map[int]string{}
	for i := range ofReplicaSet {
		slots[i] = fmt.Sprintf("rs-%d", i)
		f.add(slots[i], 20*time.Second, 30*time.Second, owned)
	}
	for i := range bare {
		f.add(fmt.Sprintf("bare-%d", i), 40*time.Second, time.Minute, policy([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure}[i%2]))
	}
	for i := range once {
		// Longer than EC2 waits.
		f.add(fmt.Sprintf("once-%d", i), 100*time.Second, 10*time.Minute, policy(corev1.RestartPolicyNever))
	}
	for range 20 {
		f.second()
	}
	first := map[string]*simulatedKubelet{}
	for name, k := range f.kubelets {
		if k.running {
			first[name] = k
		}
	}
	if len(first) != taken {
		t.Fatalf("%d pods run", len(first))
	}

	deadline := f.clock.Now().Add(2 * time.Minute)
	for _, c := range f.allCells() {
		n := gateway.Interruption{Kind: gateway.SpotInterruption, Action: "terminate", Time: deadline}
		f.deadlines[c.Status.InstanceID] = deadline
		if code, body := f.ask(c.Name, http.MethodPost, "/kip/v1/interruption", "application/json", n); code != http.StatusOK {
			t.Fatalf("%s: %d %s", c.Name, code, body)
		}
	}
	for s := range 160 {
		if s == 10 {
			f.start()
		}
		f.second()
		f.replicaSet(20*time.Second, 30*time.Second, slots)
	}

	for name, k := range first {
		switch {
		case k.termed.IsZero():
			t.Errorf("%s: pod %s got no SIGTERM", name, k.runs.Name)
		case k.exitCode != 0 || k.exited.IsZero():
			t.Errorf("%s: pod %s got a grace period of %s and needed %s", name, k.runs.Name, k.grace, k.takes)
		case !k.exited.Before(deadline):
			t.Errorf("%s: pod %s ended at %s, after its instance", name, k.runs.Name, k.exited)
		}
		if !f.disrupted[k.runs.UID] {
			t.Errorf("pod %s does not say why it ended", k.runs.Name)
		}
	}
	if n := strings.Count(strings.Join(f.told, "\n"), " CellInterruption "); n != taken {
		t.Errorf("%d events, want one for each pod", n)
	}
	launched := map[types.UID]time.Time{}
	for _, i := range f.cloud.All() {
		launched[i.CellUID] = i.LaunchTime
	}
	replaced := 0
	for _, c := range f.allCells() {
		if at := launched[c.UID]; !at.Before(deadline) {
			t.Errorf("the instance of %s was launched at %s, after the deadline", c.Name, at)
		}
		if k := f.kubelets[c.Name]; c.DeletionTimestamp == nil && k != nil && k.running && first[c.Name] == nil {
			replaced++
		}
	}
	if replaced != ofReplicaSet+bare || len(f.cloud.Alive()) != replaced {
		t.Errorf("%d replacements run on %d instances, want %d", replaced, len(f.cloud.Alive()), ofReplicaSet+bare)
	}
	for i := range once {
		var pod corev1.Pod
		if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("once-%d", i)}, &pod); err != nil {
			t.Fatal(err)
		}
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "CellInterrupted" {
			t.Errorf("%s is %s, %q", pod.Name, pod.Status.Phase, pod.Status.Reason)
		}
	}
}
