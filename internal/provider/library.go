package provider

import (
	"context"
	"fmt"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	"github.com/virtual-kubelet/virtual-kubelet/node"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell"
)

const (
	// podWorkers is how many pods the library works on at once.
	podWorkers = 20
	// leaseSeconds is the life of the node's lease, as of an ordinary kubelet's.
	leaseSeconds = 40
)

// Run runs the virtual-kubelet library's node and pod controllers until ctx
// ends or one of them fails. The caches must be started.
func (p *Provider) Run(ctx context.Context, client kubernetes.Interface, caches ctrlcache.Cache, virtualNode *corev1.Node) error {
	pods, err := podInformer(ctx, caches)
	if err != nil {
		return err
	}
	// The constructor wants informers that Kip must not run: it has no right to
	// read Secrets, and kubelets resolve what pods refer to.
	never := informers.NewSharedInformerFactory(client, 0)
	podController, err := node.NewPodController(node.PodControllerConfig{
		PodClient:         podsGetter{client.CoreV1(), p},
		PodInformer:       pods,
		EventRecorder:     quietRecorder{p.Recorder},
		Provider:          p,
		ConfigMapInformer: never.Core().V1().ConfigMaps(),
		SecretInformer:    never.Core().V1().Secrets(),
		ServiceInformer:   never.Core().V1().Services(),

		SyncPodsFromKubernetesRateLimiter:        rateLimiter[any](),
		DeletePodsFromKubernetesRateLimiter:      rateLimiter[any](),
		SyncPodStatusFromProviderRateLimiter:     rateLimiter[any](),
		SyncPodsFromKubernetesShouldRetryFunc:    retryForEver,
		DeletePodsFromKubernetesShouldRetryFunc:  retryForEver,
		SyncPodStatusFromProviderShouldRetryFunc: retryForEver,

		SkipDownwardAPIResolution: true,
	})
	if err != nil {
		return fmt.Errorf("making the pod controller: %w", err)
	}
	nodeController, err := node.NewNodeController(node.NaiveNodeProvider{}, virtualNode, client.CoreV1().Nodes(),
		node.WithNodeEnableLeaseV1(client.CoordinationV1().Leases(corev1.NamespaceNodeLease), leaseSeconds))
	if err != nil {
		return fmt.Errorf("making the node controller: %w", err)
	}

	if err := alignTaint(ctx, client.CoreV1().Nodes(), virtualNode); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 2)
	go func() { errs <- named("pod controller", podController.Run(ctx, podWorkers)) }()
	go func() { errs <- named("node controller", nodeController.Run(ctx)) }()
	first := <-errs
	cancel()
	second := <-errs
	if first == nil {
		first = second
	}
	return first
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// rateLimiter backs off per pod only; the library's default also limits the
// sum of all pods to 10 a second.
func rateLimiter[T comparable]() workqueue.TypedRateLimiter[T] {
	return cell.Retries[T](5 * time.Millisecond)
}

// retryForEver keeps the library from forgetting a pod after 20 failures.
func retryForEver(context.Context, string, int, time.Time, error) (*time.Duration, error) {
	return nil, nil
}

// sharedPods gives the library the manager's pod cache instead of a second one.
type sharedPods struct{ informer cache.SharedIndexInformer }

func podInformer(ctx context.Context, c ctrlcache.Cache) (coreinformers.PodInformer, error) {
	i, err := c.GetInformer(ctx, &corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("getting the pod cache: %w", err)
	}
	shared, ok := i.(cache.SharedIndexInformer)
	if !ok {
		return nil, fmt.Errorf("the pod cache is a %T, not a shared index informer", i)
	}
	return sharedPods{shared}, nil
}

func (s sharedPods) Informer() cache.SharedIndexInformer { return s.informer }
func (s sharedPods) Lister() corelisters.PodLister {
	return corelisters.NewPodLister(s.informer.GetIndexer())
}

// podsGetter is the library's client for pods. The library removes a deleted
// pod's object as soon as no main container runs, or when the grace period is
// over; both is too early: init containers, sidecars or hooks may still run.
// The provider removes pods itself, when their kubelet or cell is done.
type podsGetter struct {
	coreclient.PodsGetter
	provider *Provider
}

func (g podsGetter) Pods(namespace string) coreclient.PodInterface {
	return podClient{g.PodsGetter.Pods(namespace), g.provider, namespace}
}

type podClient struct {
	coreclient.PodInterface
	provider  *Provider
	namespace string
}

func (c podClient) Delete(_ context.Context, name string, _ metav1.DeleteOptions) error {
	c.provider.poke(types.NamespacedName{Namespace: c.namespace, Name: name})
	return nil
}

// UpdateStatus writes the status, and nothing else, onto the newest version of
// the pod that the cache has: the library would put back labels, annotations
// and conditions of others as they were when the status was made. A conflict
// means that the cache is behind. What it lacks is on its way and brings the
// reconciler back; to ask before that is to ask in vain, whatever else is news.
func (c podClient) UpdateStatus(ctx context.Context, pod *corev1.Pod, o metav1.UpdateOptions) (*corev1.Pod, error) {
	key := types.NamespacedName{Namespace: c.namespace, Name: pod.Name}
	update, err := c.provider.pod(ctx, key)
	if errdefs.IsNotFound(err) {
		return pod, nil
	}
	if err != nil {
		return nil, err
	}
	if update.UID != pod.UID || terminal(update.Status.Phase) || c.provider.known(pod.UID).outdated == update.ResourceVersion {
		return update, nil
	}
	conditions := mergeConditions(update.Status.Conditions, pod.Status.Conditions, func(t corev1.PodConditionType) bool {
		return byKubelet(t) || t == v1beta1.PodConditionCellReady
	})
	update.Status = *pod.Status.DeepCopy()
	update.Status.Conditions = conditions

	updated, err := c.PodInterface.UpdateStatus(ctx, update, o)
	if apierrors.IsConflict(err) {
		c.provider.mu.Lock()
		defer c.provider.mu.Unlock()
		c.provider.record(pod.UID).outdated = update.ResourceVersion
		return pod, nil
	}
	return updated, err
}

// quietRecorder drops the library's events about calls that only poke.
type quietRecorder struct{ record.EventRecorder }

func (quietRecorder) Event(_ runtime.Object, _, _, _ string)            {}
func (quietRecorder) Eventf(_ runtime.Object, _, _, _ string, _ ...any) {}
