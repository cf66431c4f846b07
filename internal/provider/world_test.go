package provider

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/health"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/podlogs"
)

const (
	testNode = "kip-provider-0"
	testUID  = types.UID("11111111-2222-3333-4444-555555555555")
)

var testPod = types.NamespacedName{Namespace: "default", Name: "web"}

// world is what outlives a Kip: the API server, time, and the logs on disk. It
// also stands for the lifecycle controller, the kubelet and the users.
type world struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	api   client.WithWatch
	logs  *podlogs.Store

	mu sync.Mutex
	// deletions are the pods that somebody asked to delete: the fake API server
	// cannot hold such a pod.
	deletions map[types.UID]deletion
	// staleCells, if not nil, is what the cache says of cells.
	staleCells []v1beta1.Cell
	// stalePods: the cache knows no pods.
	stalePods bool
	// fail returns the error of a call ("create cell", "delete pod" …); lost
	// errors come after the call has had its effect.
	fail func(call string) error
	lost func(call string) error
	// calls are the changes that were asked for, in order.
	calls []string

	// The present Kip.
	kip    *Provider
	events *record.FakeRecorder
	// cell's kubelet.
	kubelet   *fakeKubelet
	following bool
	// images are the architectures of all images, asking says that a registry is
	// being asked for them.
	images []string
	asking bool
	// silent: the cell gives no sign of life, since silentSince.
	silent      bool
	silentSince time.Time
	// standby, if not nil, has cells that wait.
	standby Standby
	// deaf: nobody writes the status that Kip reports to the API server.
	deaf bool
}

type deletion struct {
	at    metav1.Time
	grace int64
}

// apiServer is an empty fake one.
func apiServer(t *testing.T) *fake.ClientBuilder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.Cell{}, &corev1.Pod{})
}

func newWorld(t *testing.T) *world {
	t.Helper()
	logs, err := podlogs.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), logs: logs,
		deletions: map[types.UID]deletion{}, kubelet: &fakeKubelet{},
	}
	w.api = apiServer(t).WithIndex(&v1beta1.Cell{}, cellsByPod, indexCell).Build()
	w.restart()
	return w
}

// restart starts another Kip on the same world; it remembers nothing.
func (w *world) restart() {
	w.events = record.NewFakeRecorder(100)
	kip, err := New(Config{
		Client: interceptor.NewClient(w.api, interceptor.Funcs{
			Get: w.get, List: w.list, Create: w.create, Update: w.update, Delete: w.delete, SubResourcePatch: w.patchStatus,
		}),
		Live:     interceptor.NewClient(w.api, interceptor.Funcs{Get: w.getLive}),
		NodeName: testNode, NodeLabels: map[string]string{"type": "virtual-kubelet"}, Region: "us-west-2",
		Architectures: func(*corev1.Pod) ([]string, bool) { return w.images, !w.asking },
		Capacity: func(string) (corev1.ResourceList, bool) {
			return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}, true
		},
		Transport: func(string) (http.RoundTripper, error) { return w.kubelet, w.kubelet.unreachable },
		Standby:   w.standby,
		Health:    w,
		Following: func(string) bool { return w.following },
		Logs:      w.logs, Recorder: w.events, Metrics: prometheus.NewRegistry(), Clock: w.clock, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.kip = kip
	w.kip.NotifyPods(w.t.Context(), w.written)
}

// Heartbeat and Silent are those of the health monitor.
func (w *world) Heartbeat(string, string) {}

func (w *world) Unwell(string) (time.Time, string) {
	if !w.silent {
		return time.Time{}, ""
	}
	return w.silentSince, health.ReasonSilent
}

// allWell is a health monitor of cells that are always well.
type allWell struct{}

func (allWell) Heartbeat(string, string) {}

func (allWell) Unwell(string) (time.Time, string) { return time.Time{}, "" }

// written does what the library does: it writes the status.
func (w *world) written(pod *corev1.Pod) {
	var now corev1.Pod
	if err := w.api.Get(context.Background(), client.ObjectKeyFromObject(pod), &now); err != nil || w.deaf {
		return
	}
	now.Status = pod.Status
	err := w.hook("write status", func() error { return w.api.Status().Update(context.Background(), &now) })
	if err != nil && !errors.Is(err, errKilled) {
		w.t.Error(err)
	}
}

func (w *world) hook(call string, do func() error) error {
	w.mu.Lock()
	w.calls = append(w.calls, call)
	fail, lost := w.fail, w.lost
	w.mu.Unlock()
	if fail != nil {
		if err := fail(call); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if lost != nil {
		return lost(call)
	}
	return nil
}

func (w *world) overlay(pod *corev1.Pod) {
	if d, ok := w.deletions[pod.UID]; ok {
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &d.at, &d.grace
	}
}

func (w *world) getLive(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return w.hook("live get "+kind(o), func() error {
		if err := c.Get(ctx, key, o, opts...); err != nil {
			return err
		}
		if pod, ok := o.(*corev1.Pod); ok {
			w.overlay(pod)
		}
		return nil
	})
}

func (w *world) get(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	pod, ok := o.(*corev1.Pod)
	if ok && w.stalePods {
		return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
	}
	if cell, ok := o.(*v1beta1.Cell); ok && w.staleCells != nil {
		for i := range w.staleCells {
			if w.staleCells[i].Name == key.Name {
				w.staleCells[i].DeepCopyInto(cell)
				return nil
			}
		}
		return apierrors.NewNotFound(corev1.Resource("cells"), key.Name)
	}
	if err := c.Get(ctx, key, o, opts...); err != nil {
		return err
	}
	if ok {
		w.overlay(pod)
	}
	return nil
}

func (w *world) list(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
	if cells, ok := l.(*v1beta1.CellList); ok && w.staleCells != nil {
		cells.Items = w.staleCells
		return nil
	}
	return c.List(ctx, l, opts...)
}

func (w *world) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	return w.hook("create "+kind(o), func() error {
		o.SetUID(types.UID("uid-of-" + o.GetName()))
		return c.Create(ctx, o, opts...)
	})
}

func (w *world) update(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
	return w.hook("update "+kind(o), func() error { return c.Update(ctx, o, opts...) })
}

func (w *world) delete(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
	return w.hook("delete "+kind(o), func() error {
		var options client.DeleteOptions
		options.ApplyOptions(opts)
		now := o.DeepCopyObject().(client.Object)
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), now); err != nil {
			return err
		}
		if p := options.Preconditions; p == nil || p.UID == nil {
			w.t.Errorf("%s %s is deleted without a UID", kind(o), o.GetName())
		} else if *p.UID != now.GetUID() {
			return apierrors.NewConflict(corev1.Resource(kind(o)), o.GetName(), errors.New("another UID"))
		}
		if g := options.GracePeriodSeconds; g != nil && *g > 0 {
			w.deletions[o.GetUID()] = deletion{metav1.NewTime(w.clock.Now().Add(time.Duration(*g) * time.Second)), *g}
			return nil
		}
		return c.Delete(ctx, o, opts...)
	})
}

func (w *world) patchStatus(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	err := w.hook("patch status of "+kind(o), func() error { return c.SubResource(sub).Patch(ctx, o, patch, opts...) })
	if err == nil {
		w.kip.cellChanged(o.(*v1beta1.Cell))
	}
	return err
}

func kind(o client.Object) string {
	if _, ok := o.(*corev1.Pod); ok {
		return "pod"
	}
	return "cell"
}

// newPod is a pod of the node.
func newPod(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: testPod.Namespace, Name: testPod.Name, UID: testUID, Annotations: map[string]string{}},
		Spec: corev1.PodSpec{
			NodeName: testNode, RestartPolicy: corev1.RestartPolicyAlways,
			InitContainers: []corev1.Container{{Name: "init"}},
			Containers:     []corev1.Container{{Name: "app"}, {Name: "sidecar"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func policy(p corev1.RestartPolicy) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.RestartPolicy = p }
}

// add makes a pod, its status included.
func (w *world) add(change ...func(*corev1.Pod)) *corev1.Pod {
	w.t.Helper()
	pod := newPod(change...)
	if err := w.api.Create(w.t.Context(), pod); err != nil {
		w.t.Fatal(err)
	}
	return pod
}

// reconcile takes one step.
func (w *world) reconcile() (reconcile.Result, error) {
	return w.kip.Reconcile(w.t.Context(), reconcile.Request{NamespacedName: testPod})
}

func (w *world) must() reconcile.Result {
	w.t.Helper()
	r, err := w.reconcile()
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// settle takes steps until nothing is left to do at once.
func (w *world) settle() reconcile.Result {
	w.t.Helper()
	var r reconcile.Result
	for range 4 {
		r = w.must()
	}
	return r
}

func (w *world) pod() *corev1.Pod {
	w.t.Helper()
	var pod corev1.Pod
	err := w.api.Get(w.t.Context(), testPod, &pod)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return &pod
}

// cells are all cells, by creation.
func (w *world) cells() []v1beta1.Cell {
	w.t.Helper()
	var cells v1beta1.CellList
	if err := w.api.List(w.t.Context(), &cells); err != nil {
		w.t.Fatal(err)
	}
	return cells.Items
}

// cell is the only cell, nil if there is none.
func (w *world) cell() *v1beta1.Cell {
	w.t.Helper()
	switch cells := w.cells(); len(cells) {
	case 0:
		return nil
	case 1:
		return &cells[0]
	default:
		w.t.Fatalf("%d cells", len(cells))
		return nil
	}
}

// is fails the test unless the only cell is there, and being deleted or not.
func (w *world) wantCell(attempt int32, deleted bool) *v1beta1.Cell {
	w.t.Helper()
	cell := w.cell()
	if cell == nil {
		w.t.Fatal("there is no cell")
	}
	if cell.Spec.Attempt != attempt || (cell.DeletionTimestamp != nil) != deleted {
		w.t.Fatalf("cell of attempt %d, deleted %t; want attempt %d, deleted %t", cell.Spec.Attempt, cell.DeletionTimestamp != nil, attempt, deleted)
	}
	return cell
}

// lifecycle does to the only cell what its controller would.
func (w *world) lifecycle(change func(*v1beta1.Cell)) {
	w.t.Helper()
	w.change(w.cell(), change)
}

func (w *world) change(cell *v1beta1.Cell, change func(*v1beta1.Cell)) {
	w.t.Helper()
	change(cell)
	if err := w.api.Status().Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
	w.kip.cellChanged(cell)
}

// attempt is the pod's cell of that number, nil if there is none.
func (w *world) attempt(number int32) *v1beta1.Cell {
	w.t.Helper()
	for _, c := range w.cells() {
		if c.Spec.Attempt == number {
			return &c
		}
	}
	return nil
}

// holding is the cell whose kubelet has the pod, nil if there is none.
func (w *world) holding() *v1beta1.Cell {
	w.t.Helper()
	var first *v1beta1.Cell
	for _, c := range w.cells() {
		ended := c.Status.Interruption != nil && c.Status.Interruption.PodEnded != nil
		if !ended && (first == nil || c.Spec.Attempt < first.Spec.Attempt) {
			first = &c
		}
	}
	return first
}

func cellCondition(reason string, status metav1.ConditionStatus) func(*v1beta1.Cell) {
	return func(c *v1beta1.Cell) {
		meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: v1beta1.ConditionReady, Status: status, Reason: reason, Message: "the cell is " + reason})
	}
}

// enrolled: the cell's kubelet runs.
func enrolled(c *v1beta1.Cell) {
	c.Status.Phase = v1beta1.CellRunning
	c.Status.InstanceID = "i-1"
	c.Status.PrimaryIP, c.Status.PodIP = "10.0.0.4", "10.0.0.5"
	c.Status.Launch = &v1beta1.LaunchStatus{InstanceType: "t3.nano", Zone: "us-west-2a", CapacityType: v1beta1.OnDemand, Architecture: "amd64"}
	c.Status.Enrolment = &v1beta1.EnrolmentStatus{KeySHA256: "k"}
	cellCondition(v1beta1.ReasonEnrolled, metav1.ConditionTrue)(c)
}

// gone: the instance is proven gone.
func gone(c *v1beta1.Cell) {
	c.Status.Phase = v1beta1.CellTerminating
	cellCondition(v1beta1.ReasonInstanceGone, metav1.ConditionFalse)(c)
}

// terminated drops the finalizer of the only cell, which must be deleted.
func (w *world) terminated() {
	w.t.Helper()
	w.remove(w.cell())
}

func (w *world) remove(cell *v1beta1.Cell) {
	w.t.Helper()
	if cell == nil || cell.DeletionTimestamp == nil {
		w.t.Fatalf("the cell is not deleted: %v", cell)
	}
	cell.Finalizers = nil
	if err := w.api.Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
	w.kip.cellGone(cell)
}

// deleteCell is a user's kubectl delete cell.
func (w *world) deleteCell() {
	w.t.Helper()
	if err := w.api.Delete(w.t.Context(), w.cell()); err != nil {
		w.t.Fatal(err)
	}
}

// deletePod is a user's kubectl delete pod.
func (w *world) deletePod(grace time.Duration) {
	w.deletions[w.pod().UID] = deletion{metav1.NewTime(w.clock.Now().Add(grace)), int64(grace.Seconds())}
}

// report is the kubelet's word through the gateway.
func (w *world) report(status corev1.PodStatus) {
	w.t.Helper()
	if _, err := w.kip.SetPodStatus(w.t.Context(), w.holding().Name, testUID, status); err != nil {
		w.t.Fatal(err)
	}
}

// running has the pod run on an enrolled cell, and the API server know it.
func (w *world) running(change ...func(*corev1.Pod)) {
	w.t.Helper()
	w.add(change...)
	w.must()
	w.lifecycle(enrolled)
	w.report(statusOf(corev1.PodRunning))
	w.settle()
	if w.pod().Status.Phase != corev1.PodRunning {
		w.t.Fatal("the pod does not run")
	}
}

// statusOf is what a kubelet reports of a pod in this phase.
func statusOf(phase corev1.PodPhase) corev1.PodStatus {
	s := corev1.PodStatus{Phase: phase, PodIP: "10.0.0.5"}
	ready := corev1.ConditionFalse
	state := corev1.ContainerState{}
	switch phase {
	case corev1.PodPending:
		state.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	case corev1.PodRunning:
		ready = corev1.ConditionTrue
		state.Running = &corev1.ContainerStateRunning{}
	case corev1.PodSucceeded:
		state.Terminated = &corev1.ContainerStateTerminated{ContainerID: "containerd://app"}
	case corev1.PodFailed:
		state.Terminated = &corev1.ContainerStateTerminated{ContainerID: "containerd://app", ExitCode: 1}
	}
	s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}, {Type: corev1.ContainersReady, Status: ready}}
	s.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: state, Ready: ready == corev1.ConditionTrue}}
	if phase != corev1.PodPending {
		s.ContainerStatuses[0].ContainerID = "containerd://app"
	}
	return s
}

// told returns and forgets the events.
func (w *world) told() []string {
	var all []string
	for {
		select {
		case e := <-w.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// wantEvents fails the test unless exactly events of these reasons came.
func (w *world) wantEvents(reasons ...string) {
	w.t.Helper()
	told := w.told()
	ok := len(told) == len(reasons)
	for i := range told {
		ok = ok && strings.Contains(told[i], " "+reasons[i]+" ")
	}
	if !ok {
		w.t.Errorf("events %q, want %q", told, reasons)
	}
}

// cellReadyOf is the pod's CellReady condition in the API server.
func (w *world) cellReadyOf() corev1.PodCondition {
	w.t.Helper()
	c := condition(&w.pod().Status, v1beta1.PodConditionCellReady)
	if c == nil {
		return corev1.PodCondition{}
	}
	return *c
}

// fakeKubelet answers for logs.
type fakeKubelet struct {
	mu          sync.Mutex
	unreachable error
	asked       []string
	// said is the phase that it reported last; ended: nothing of the pod is left.
	said  corev1.PodPhase
	ended bool
	// cell is whose kubelet it is.
	cell types.UID
	// notice is what the cell's agent tells until Kip has heard.
	notice *gateway.Interruption
	// answer is the answer to a path with query; 200 and one line if nil.
	answer func(path string) (int, string)
}

func (k *fakeKubelet) RoundTrip(r *http.Request) (*http.Response, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	path := r.URL.RequestURI()
	k.asked = append(k.asked, path)
	code, text := http.StatusOK, "2026-01-02T03:04:05Z hello\n"
	if k.answer != nil {
		code, text = k.answer(path)
	}
	if code == 0 {
		return nil, errors.New("connection lost")
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader(text))}, nil
}

func (w *world) keptLog(container string) string {
	w.t.Helper()
	var b bytes.Buffer
	if err := w.logs.Read(&b, testUID, container, podlogs.Options{Tail: -1}); err != nil {
		w.t.Errorf("kept log of %s: %v", container, err)
	}
	return b.String()
}

// pokes are the requests in a reconciler's queue.
type pokes struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// takePokes has the present Kip poke into a new queue.
func (w *world) takePokes() pokes {
	w.t.Helper()
	q := pokes{workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())}
	w.t.Cleanup(q.ShutDown)
	if err := w.kip.takeQueue(w.t.Context(), q); err != nil {
		w.t.Fatal(err)
	}
	return q
}

func (q pokes) drain() []types.NamespacedName {
	var all []types.NamespacedName
	for q.Len() > 0 {
		r, _ := q.Get()
		q.Done(r)
		all = append(all, r.NamespacedName)
	}
	return all
}

// kubeletSays has the kubelet report a phase, and remember it.
func (w *world) kubeletSays(phase corev1.PodPhase) {
	if cell := w.holding(); cell != nil {
		w.kubelet.cell = cell.UID
	}
	w.kubelet.said = phase
	w.kubeletRepeats()
}

// kubeletRepeats: a kubelet says again what the API server does not show.
func (w *world) kubeletRepeats() {
	cell, pod := w.holding(), w.pod()
	if cell != nil && cell.UID != w.kubelet.cell {
		// Another one, which knows nothing.
		w.kubelet.cell, w.kubelet.said, w.kubelet.ended = cell.UID, "", false
	}
	if pod == nil || cell == nil || cell.DeletionTimestamp != nil || instanceGone(cell) || cell.Status.Enrolment == nil {
		return
	}
	if n := w.kubelet.notice; n != nil && w.kip.Interruption(w.t.Context(), cell.Name, *n) == nil {
		w.kubelet.notice = nil
	}
	if shown := w.kip.Pod(cell.Name); w.kubelet.said != "" && shown != nil && shown.Status.Phase != w.kubelet.said {
		_, _ = w.kip.SetPodStatus(w.t.Context(), cell.Name, pod.UID, statusOf(w.kubelet.said))
	}
	if shown := w.kip.Pod(cell.Name); w.kubelet.ended && shown != nil && shown.Status.Phase == w.kubelet.said {
		// Only when it is shown what it said.
		_ = w.kip.PodTerminated(w.t.Context(), cell.Name, pod.UID)
	}
}
