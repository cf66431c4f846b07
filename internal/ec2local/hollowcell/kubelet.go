package hollowcell

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/elotl/kip/v2/internal/agent/imds"
)

// A kubelet's own, and of those the cells' real kubelets are not told otherwise (package agent/kubelet).
const (
	leaseSeconds   = 40
	leaseInterval  = leaseSeconds * time.Second / 4
	statusInterval = 5 * time.Minute
)

// The labels by which kube-proxy leaves out what is not its own to serve.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// kubelet is the requests of a cell's kubelet and kube-proxy, and of its agent about the pod.
type kubelet struct {
	node     string
	instance imds.Instance
	gateway  http.RoundTripper
	tasks    sync.WaitGroup

	// worker is the pod's. Only the watch of pods touches it.
	worker *worker
}

func newKubelet(node string, instance imds.Instance, gateway http.RoundTripper) *kubelet {
	return &kubelet{node: node, instance: instance, gateway: gateway}
}

// run asks until ctx ends, and returns when nothing of it asks any more.
func (k *kubelet) run(ctx context.Context) {
	defer k.tasks.Wait()
	k.register(ctx)
	k.tasks.Go(func() { k.renew(ctx) })
	k.tasks.Go(func() { k.tellNode(ctx) })
	for _, w := range []struct {
		path  string
		query url.Values
	}{
		{"/api/v1/nodes", named(k.node)},
		{"/api/v1/services", url.Values{}},
		{"/apis/node.k8s.io/v1/runtimeclasses", url.Values{}},
		{"/apis/storage.k8s.io/v1/csidrivers", url.Values{}},
		// kube-proxy's.
		{"/api/v1/nodes", named(k.node)},
		{"/api/v1/services", without(corev1.IsHeadlessService, labelProxyName)},
		{"/apis/discovery.k8s.io/v1/endpointslices", without(corev1.IsHeadlessService, labelProxyName)},
		{"/apis/networking.k8s.io/v1/servicecidrs", url.Values{}},
	} {
		k.tasks.Go(func() { k.follow(ctx, w.path, w.query, nil) })
	}
	own := url.Values{"fieldSelector": {"spec.nodeName=" + k.node}}
	k.follow(ctx, "/api/v1/pods", own, func(e event) { k.see(ctx, e) })
}

// register is what a kubelet does once when it starts. What fails is not made up for: nothing depends on it.
func (k *kubelet) register(ctx context.Context) {
	_ = k.ask(ctx, http.MethodGet, "/api/v1/nodes/"+k.node, "", nil, nil)
	_ = k.ask(ctx, http.MethodPost, "/apis/storage.k8s.io/v1/csinodes", mediaTypeJSON, &storagev1.CSINode{
		TypeMeta:   metav1.TypeMeta{APIVersion: storagev1.SchemeGroupVersion.String(), Kind: "CSINode"},
		ObjectMeta: metav1.ObjectMeta{Name: k.node},
	}, nil)
}

const leasesPath = "/apis/coordination.k8s.io/v1/namespaces/" + corev1.NamespaceNodeLease + "/leases"

// renew keeps the Lease of the cell's node.
func (k *kubelet) renew(ctx context.Context) {
	for {
		if k.renewOnce(ctx) != nil && k.ask(ctx, http.MethodPost, leasesPath, mediaTypeJSON, k.lease(), nil) == nil {
			continue
		}
		if !sleep(ctx, leaseInterval) {
			return
		}
	}
}

func (k *kubelet) renewOnce(ctx context.Context) error {
	return k.ask(ctx, http.MethodPut, leasesPath+"/"+k.node, mediaTypeJSON, k.lease(), nil)
}

func (k *kubelet) lease() *coordinationv1.Lease {
	seconds, now := int32(leaseSeconds), metav1.NowMicro()
	return &coordinationv1.Lease{
		TypeMeta:   metav1.TypeMeta{APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: k.node},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &k.node, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
}

// tellNode says from time to time that the node is well.
func (k *kubelet) tellNode(ctx context.Context) {
	began := metav1.Now()
	for {
		_ = k.ask(ctx, http.MethodPatch, "/api/v1/nodes/"+k.node+"/status", mediaTypePatch, map[string]any{"status": corev1.NodeStatus{
			NodeInfo: corev1.NodeSystemInfo{OperatingSystem: "linux", KubeletVersion: version},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
				LastHeartbeatTime: metav1.Now(), LastTransitionTime: began,
			}},
		}}, nil)
		if !sleep(ctx, statusInterval) {
			return
		}
	}
}

// see takes news of the pod.
func (k *kubelet) see(ctx context.Context, e event) {
	var pod corev1.Pod
	if json.Unmarshal(e.Object, &pod) != nil {
		return // a kubelet would wait for better news too
	}
	if w := k.worker; w != nil && (w.uid != pod.UID || e.Type == watch.Deleted) {
		w.stop()
		k.worker = nil
	}
	if e.Type == watch.Deleted {
		return
	}
	if k.worker == nil {
		k.worker = k.work(ctx, pod.UID)
	}
	k.worker.update(&pod)
}

// work begins to do what is to be done for a pod.
func (k *kubelet) work(ctx context.Context, uid types.UID) *worker {
	ctx, stop := context.WithCancel(ctx)
	w := &worker{kubelet: k, uid: uid, stop: stop, news: make(chan struct{}, 1)}
	k.tasks.Go(func() { w.run(ctx) })
	return w
}
