package provider

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/podlogs"
)

// Config is what a Provider works with; all of it comes from outside.
type Config struct {
	// Client reads Pods and Cells from the manager's caches and writes.
	Client client.Client
	// Live reads past the caches. It is asked before anything is ended because
	// of a pod that a cache does not know.
	Live client.Reader

	// NodeName is the virtual node.
	NodeName string
	// NodeLabels are the virtual node's labels; every cell's Node has them too.
	NodeLabels map[string]string
	// Region is the cloud's region, for the label of cells.
	Region string

	// Defaults hold for what a pod does not say about its instance.
	Defaults instancetype.Defaults

	// Architectures says for which architectures a pod's images are made, none
	// if that is not known; done is false while that is being found out. It
	// does not block.
	Architectures func(*corev1.Pod) (architectures []string, done bool)

	// Standby has cells that wait for pods; nil if none are configured.
	Standby Standby

	// Capacity says what a pod can have on an instance type.
	Capacity func(instanceType string) (corev1.ResourceList, bool)

	// Transport reaches a cell's agent and kubelet.
	Transport func(cell string) (http.RoundTripper, error)

	// Health takes cells' signs of life and knows which give none.
	Health Health

	// Following says whether somebody reads from a cell right now what its pod
	// writes.
	Following func(cell string) bool

	Logs     *podlogs.Store
	Recorder record.EventRecorder
	Metrics  prometheus.Registerer
	Clock    clock.Clock
	Log      *slog.Logger
}

// Health is what watches over cells. Its methods do not block.
type Health interface {
	// Heartbeat is a cell's sign of life, with what its kubelet says of itself if
	// it does not work.
	Heartbeat(cell, trouble string)
	// Unwell says why the cell's pod counts as out of touch, as the reason of a
	// condition, and since when; "" while it does not.
	Unwell(cell string) (since time.Time, reason string)
}

// Standby is what keeps cells for pods to come. Its methods do not block, but for
// what they ask the cloud now and then.
type Standby interface {
	// Candidates are the cells that would do for a pod, instead of one that is
	// launched, the best first. They are not to be changed.
	Candidates(ctx context.Context, spec v1beta1.CellSpec) ([]*v1beta1.Cell, error)
	// Reserve keeps a cell for a pod of the namespace, which is about to take it.
	// False: another is about to, or the namespace may not have it.
	Reserve(cell *v1beta1.Cell, namespace string) bool
	// Release gives a reserved cell back that was not taken.
	Release(cell *v1beta1.Cell)
}

// Provider is described in the package documentation. It is safe for
// concurrent use.
type Provider struct {
	Config
	metrics *metrics

	// began is when this Kip started: nobody can have heard from it before.
	began time.Time

	mu sync.Mutex
	// queue is the reconciler's, nil until it starts. Every pod is looked at
	// then, so what is poked before is not lost.
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
	records map[types.UID]*podRecord
	notify  func(*corev1.Pod)
	// cells are the names of a pod's cells, for waking watchers only.
	cells map[types.UID]map[string]bool
	// gone are pods that are known to have left the API server while they have
	// a cell. A pod that is only missing from a cache is not gone.
	gone map[types.UID]bool
	// watchers wait for a change of a cell or its pod, by cell name.
	watchers map[string]map[chan struct{}]struct{}
}

// podRecord is what is known of one pod beyond the API server. It is lost with
// the process and told again by the pod's kubelet.
type podRecord struct {
	// reported is the newest status from the kubelet.
	reported *corev1.PodStatus
	// own is the kubelet's own word while its pod is being stopped, and reported
	// is what that means for the pod.
	own *corev1.PodStatus
	// ended: the kubelet has removed the pod; nothing of it runs.
	ended bool
	// refused is the last mistake in the pod that became an event.
	refused string
	// attempt is the number of the next cell.
	attempt int32
	// claimed is the name of the standby cell that was taken for the pod last.
	claimed string
	// held: the logs of the pod, which is being stopped for good, are held.
	held bool
	// outdated is the last version of the pod that met a conflict.
	outdated string
	// removed: the API server agreed to remove the pod's object.
	removed bool
	// finished is when the pod's end was first seen with its cell still there.
	finished time.Time
}

// over says whether the pod ended, be it that the API server does not know yet.
func (r podRecord) over() bool { return r.reported != nil && terminal(r.reported.Phase) }

// New makes a Provider and registers its metrics.
func New(cfg Config) (*Provider, error) {
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Provider{
		Config:   cfg,
		metrics:  m,
		began:    cfg.Clock.Now(),
		records:  map[types.UID]*podRecord{},
		cells:    map[types.UID]map[string]bool{},
		gone:     map[types.UID]bool{},
		watchers: map[string]map[chan struct{}]struct{}{},
	}, nil
}

// CreatePod is called by the virtual-kubelet library when a pod was bound to
// the node. The reconciler sees the same pod in the same cache; there is
// nothing to do, and nothing that could fail.
func (p *Provider) CreatePod(_ context.Context, pod *corev1.Pod) error {
	p.poke(client.ObjectKeyFromObject(pod))
	return nil
}

// UpdatePod is called by the library when a pod's specification changed.
func (p *Provider) UpdatePod(_ context.Context, pod *corev1.Pod) error {
	p.poke(client.ObjectKeyFromObject(pod))
	return nil
}

// DeletePod is called by the library when a pod is being deleted.
func (p *Provider) DeletePod(_ context.Context, pod *corev1.Pod) error {
	p.poke(client.ObjectKeyFromObject(pod))
	return nil
}

// GetPod is called by the library to tell a new pod from a known one.
func (p *Provider) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := p.pod(ctx, types.NamespacedName{Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return pod, nil
}

// GetPodStatus is the status of GetPod's pod.
func (p *Provider) GetPodStatus(ctx context.Context, namespace, name string) (*corev1.PodStatus, error) {
	pod, err := p.GetPod(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return &pod.Status, nil
}

// GetPods is called by the library once at its start, to delete pods that only
// the provider knows. There are none: the reconciler ends Cells without a pod.
func (p *Provider) GetPods(context.Context) ([]*corev1.Pod, error) { return nil, nil }

// NotifyPods takes the function through which the library hears of new
// status. All pods are looked at again: what was found out before could not be
// told.
func (p *Provider) NotifyPods(ctx context.Context, notify func(*corev1.Pod)) {
	p.mu.Lock()
	p.notify = notify
	p.mu.Unlock()
	pods, err := p.Pods(ctx)
	if err != nil {
		p.Log.Error("looking at all pods again", "err", err)
		return
	}
	for i := range pods.Items {
		p.poke(client.ObjectKeyFromObject(&pods.Items[i]))
	}
}

// CellChanged has the pod of a cell looked at again. It is for what is not
// written in the Cell.
func (p *Provider) CellChanged(cell *v1beta1.Cell) {
	if ref := cell.Spec.Pod; ref != nil {
		p.poke(client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name})
	}
}

// poke has the reconciler look at the pod soon. It does not block and does not
// get lost.
func (p *Provider) poke(pod client.ObjectKey) {
	p.mu.Lock()
	queue := p.queue
	p.mu.Unlock()
	if queue != nil {
		queue.Add(reconcile.Request{NamespacedName: pod})
	}
}

// takeQueue is the source of pokes in the reconciler's eyes.
func (p *Provider) takeQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = queue
	return nil
}

// record returns what is known of a pod, to be changed. The caller holds mu.
func (p *Provider) record(uid types.UID) *podRecord {
	r := p.records[uid]
	if r == nil {
		r = &podRecord{}
		p.records[uid] = r
	}
	return r
}

// known returns what is known of a pod.
func (p *Provider) known(uid types.UID) podRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[uid]; r != nil {
		return *r
	}
	return podRecord{}
}

// forget drops what is known of a pod that left the API server, its logs
// included.
func (p *Provider) forget(uid types.UID) {
	p.mu.Lock()
	delete(p.records, uid)
	p.setGone(uid)
	p.mu.Unlock()
	if err := p.Logs.Remove(uid); err != nil {
		p.Log.Error("removing the kept logs of a deleted pod", "podUID", uid, "err", err)
	}
}

// setGone notes that a pod left the API server and lets its cells know. The
// caller holds mu.
func (p *Provider) setGone(uid types.UID) {
	if len(p.cells[uid]) > 0 {
		p.gone[uid] = true
		p.wakeCells(uid)
	}
}
