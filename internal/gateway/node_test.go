package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	nodeutil "k8s.io/component-helpers/node/util"
)

func TestNode(t *testing.T) {
	for _, protobuf := range []bool{false, true} {
		t.Run(fmt.Sprintf("Protobuf=%t", protobuf), func(t *testing.T) {
			h := newHarness(t)
			client := h.client(t, protobuf)

			// The kubelet's and the kube-proxy's way to know the node.
			factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.Set{metav1.ObjectNameField: node}.String()
			}))
			lister := factory.Core().V1().Nodes().Lister()
			ctx, cancel := context.WithCancel(context.Background())
			factory.Start(ctx.Done())
			t.Cleanup(func() { cancel(); factory.Shutdown() })
			factory.WaitForCacheSync(ctx.Done())
			first, err := lister.Get(node)
			if err != nil {
				t.Fatal(err)
			}
			if got := first.Status.Allocatable.Memory().String(); got != "3500Mi" {
				t.Errorf("memory %s", got)
			}
			if first.Labels["type"] != "virtual-kubelet" || first.Labels[corev1.LabelHostname] != node || first.Status.Addresses[0].Address != "10.98.0.10" {
				t.Errorf("labels %v, addresses %v", first.Labels, first.Status.Addresses)
			}
			if _, ready := nodeutil.GetNodeCondition(&first.Status, corev1.NodeReady); ready == nil || ready.Status != corev1.ConditionTrue {
				t.Errorf("conditions %v", first.Status.Conditions)
			}

			// What the kubelet writes it sees again, but for what Kip knows better.
			changed := first.DeepCopy()
			changed.Status.Capacity[corev1.ResourceMemory] = resource.MustParse("64Gi")
			changed.Status.Capacity["nvidia.com/gpu"] = resource.MustParse("1")
			changed.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.17.0.2"}}
			changed.Status.VolumesInUse = []corev1.UniqueVolumeName{"csi/vol-1"}
			changed.Status.NodeInfo.KubeletVersion = "v1.36.3"
			changed.Labels["type"] = "bare-metal"
			changed.Labels["node.kubernetes.io/cpu"] = "fast"
			changed.Annotations = map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
			changed.Status.Conditions = append(changed.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
			updated, _, err := nodeutil.PatchNodeStatus(client.CoreV1(), node, first, changed)
			if err != nil {
				t.Fatal(err)
			}
			if updated.Status.Capacity.Memory().String() != "3500Mi" || updated.Status.Addresses[0].Address != "10.98.0.10" || updated.Labels["type"] != "virtual-kubelet" {
				t.Errorf("the kubelet overruled Kip: %v, %v, %v", updated.Status.Capacity, updated.Status.Addresses, updated.Labels)
			}
			gpus := updated.Status.Capacity["nvidia.com/gpu"]
			if gpus.String() != "1" || len(updated.Status.VolumesInUse) != 1 || updated.Status.NodeInfo.KubeletVersion != "v1.36.3" ||
				updated.Labels["node.kubernetes.io/cpu"] != "fast" || len(updated.Annotations) != 1 || len(updated.Status.Conditions) != 2 {
				t.Errorf("what the kubelet wrote is lost: %+v", updated)
			}
			eventually(t, "the informer sees what was written", func() bool {
				n, err := lister.Get(node)
				return err == nil && n.ResourceVersion == updated.ResourceVersion
			})

			// What Kip learns later is seen without the kubelet's doing.
			current := standbyCell()
			delete(current.Labels, "type")
			h.State.SetCell(current)
			eventually(t, "the informer sees that the label went", func() bool {
				n, err := lister.Get(node)
				return err == nil && n.Labels["type"] == ""
			})
			if requests := h.Upstream.Requests(); len(requests) > 0 {
				t.Errorf("the API server was asked: %v", requests)
			}
		})
	}
}

func TestNodeWrites(t *testing.T) {
	h := newHarness(t)
	client := h.client(t, false).CoreV1().Nodes()
	shown, err := client.Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shown.Annotations = map[string]string{"a": "b"}
	updated, err := client.Update(t.Context(), shown, metav1.UpdateOptions{})
	if err != nil || updated.Annotations["a"] != "b" {
		t.Fatalf("update: %v, %v", updated, err)
	}
	if _, err := client.UpdateStatus(t.Context(), shown, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v, want a conflict", err)
	}
	updated.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoExecute}}
	if updated, err = client.UpdateStatus(t.Context(), updated, metav1.UpdateOptions{}); err != nil || len(updated.Spec.Taints) > 0 {
		t.Errorf("a taint was taken: %v, %v", updated, err)
	}
	if _, err := client.Patch(t.Context(), node, types.MergePatchType, []byte(`{"metadata":{"name":"other"}}`), metav1.PatchOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("a new name: %v", err)
	}
	// Patch by patch nothing grows beyond the limit.
	for i := range 5 {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"a%d":%q}}}`, i, strings.Repeat("x", 900<<10))
		if _, err = client.Patch(t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			break
		}
	}
	if !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("five times 900 KiB: %v, want too large", err)
	}
}

// TestNodeWritersAtOnce has many writers who retry, as a kubelet does, and
// loses none of their work.
func TestNodeWritersAtOnce(t *testing.T) {
	h := newHarness(t)
	client := h.client(t, false).CoreV1().Nodes()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"w%d":"x"}}}`, i)
			for {
				_, err := client.Patch(context.Background(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
				if err == nil {
					return
				}
				if !apierrors.IsConflict(err) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n, err := client.Get(t.Context(), node, metav1.GetOptions{})
	if err != nil || len(n.Annotations) != 8 {
		t.Errorf("annotations %v, %v", n.Annotations, err)
	}
}

// says has the kubelet say whether it is ready.
func (h *harness) says(t *testing.T, ready corev1.ConditionStatus, why string) {
	t.Helper()
	client := h.client(t, false).CoreV1().Nodes()
	shown, err := client.Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shown.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Message: why}}
	if _, err := client.UpdateStatus(t.Context(), shown, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestLease(t *testing.T) {
	for _, protobuf := range []bool{false, true} {
		t.Run(fmt.Sprintf("Protobuf=%t", protobuf), func(t *testing.T) {
			h := newHarness(t)
			client := h.client(t, protobuf).CoordinationV1().Leases(corev1.NamespaceNodeLease)
			if _, err := client.Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("get before create: %v", err)
			}
			holder, seconds := node, int32(40)
			renewed := metav1.NewMicroTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
			lease := &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: node, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: "x"}}},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed},
			}
			if _, err := client.Update(t.Context(), lease, metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("update before create: %v", err)
			}
			created, err := client.Create(t.Context(), lease, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Create(t.Context(), lease, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Errorf("second create: %v", err)
			}
			later := metav1.NewMicroTime(renewed.Add(10 * time.Second))
			created.Spec.RenewTime = &later
			updated, err := client.Update(t.Context(), created, metav1.UpdateOptions{})
			if err != nil || len(updated.OwnerReferences) != 1 || !updated.Spec.RenewTime.Equal(&later) {
				t.Fatalf("update: %+v, %v", updated, err)
			}
			if _, err := client.Update(t.Context(), created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("update of an old version: %v", err)
			}
			if got, err := client.Get(t.Context(), node, metav1.GetOptions{}); err != nil || got.ResourceVersion != updated.ResourceVersion {
				t.Errorf("get: %v, %v", got, err)
			}
			if got := h.Sink.Heartbeats(cell); got != 2 {
				t.Errorf("%d heartbeats, want 2", got)
			}
			for said, want := range map[string]string{
				"":                             "it does not say why",
				"PLEG is not healthy":          "PLEG is not healthy",
				strings.Repeat("\u00fc", 1000): strings.Repeat("\u00fc", 150),
			} {
				h.says(t, corev1.ConditionFalse, said)
				if updated, err = client.Update(t.Context(), updated, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				if got := h.Sink.Trouble(cell); got != want {
					t.Errorf("the kubelet says %q, and passed on is %q", said, got)
				}
			}
			h.says(t, corev1.ConditionTrue, "kubelet is posting ready status")
			if _, err := client.Update(t.Context(), updated, metav1.UpdateOptions{}); err != nil || h.Sink.Trouble(cell) != "" {
				t.Errorf("a kubelet that is ready has trouble %q (%v)", h.Sink.Trouble(cell), err)
			}
			lease.Name = "other"
			if _, err := client.Create(t.Context(), lease, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
				t.Errorf("another node's: %v", err)
			}
			if requests := h.Upstream.Requests(); len(requests) > 0 {
				t.Errorf("the API server was asked: %v", requests)
			}
		})
	}
}

func TestCSINode(t *testing.T) {
	h := newHarness(t)
	client := h.client(t, true).StorageV1().CSINodes()
	if _, err := client.Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get before create: %v", err)
	}
	csiNode := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}
	created, err := client.Create(t.Context(), csiNode, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := created.DeepCopy()
	created.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "nfs.csi.k8s.io", NodeID: node}}
	if created, err = client.Update(t.Context(), created, metav1.UpdateOptions{}); err != nil || len(created.Spec.Drivers) != 1 {
		t.Fatalf("update: %+v, %v", created, err)
	}
	if _, err := client.Update(t.Context(), old, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	patched, err := client.Patch(t.Context(), node, types.StrategicMergePatchType, []byte(`{"spec":{"drivers":[{"name":"ebs.csi.aws.com","nodeID":"i-1"}]}}`), metav1.PatchOptions{})
	if err != nil || len(patched.Spec.Drivers) != 2 {
		t.Errorf("patch merges by name: %+v, %v", patched, err)
	}
	if err := client.Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Get(t.Context(), node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete: %v", err)
	}
	csiNode.Name = "other"
	if _, err := client.Create(t.Context(), csiNode, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node's: %v", err)
	}

	// A kubelet wipes its node's ResourceSlices when it starts. That must look
	// done, and reach nobody.
	slices := h.client(t, false).ResourceV1().ResourceSlices()
	own := metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}
	if err := slices.DeleteCollection(t.Context(), metav1.DeleteOptions{}, own); err != nil {
		t.Errorf("own resource slices: %v", err)
	}
	if err := slices.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all resource slices: %v", err)
	}
	if requests := h.Upstream.Requests(); len(requests) > 0 {
		t.Errorf("the API server was asked: %v", requests)
	}
	if got := h.count(t, "kip_gateway_requests_total", "dropped"); got != 1 {
		t.Errorf("%v dropped requests were counted, want 1", got)
	}
}
