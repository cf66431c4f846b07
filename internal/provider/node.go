package provider

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"

	"github.com/elotl/kip/v2/internal/config"
)

// TaintKey is the key of the virtual node's taint: a pod runs on Kip only when
// it says so.
const TaintKey = "virtual-kubelet.io/provider"

// NodeConfig says how the virtual node presents itself.
type NodeConfig struct {
	Name    string
	Kubelet config.Kubelet
	// IP is the address at which the API server reaches the kubelet API.
	IP   string
	Port int32
	// KubernetesVersion is the version of the kubelets in the cells.
	KubernetesVersion string
	// DisableTaint: the scheduler puts any pod there.
	DisableTaint bool
}

// declaredFeatures are those that the stock kubelet of the cells declares on a
// node of its own. The scheduler looks for them when a pod needs one, and the
// API server when a running pod is changed so that it needs one.
var declaredFeatures = []string{
	"ExtendWebSocketsToKubelet",
	"InPlacePodLevelResourcesVerticalScaling",
	"InPlacePodVerticalScalingInitContainers",
	"RestartAllContainersOnContainerExits",
}

// NodeLabels are the virtual node's labels.
func NodeLabels(c NodeConfig) map[string]string {
	labels := map[string]string{
		"type":                           "virtual-kubelet",
		"kubernetes.io/role":             "agent",
		corev1.LabelHostname:             c.Name,
		corev1.LabelOSStable:             "linux",
		corev1.LabelArchStable:           runtime.GOARCH,
		corev1.LabelNodeExcludeBalancers: "true",
	}
	maps.Copy(labels, c.Kubelet.Labels)
	return labels
}

// NewNode is the virtual node as it is registered.
func NewNode(c NodeConfig) *corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    c.Kubelet.CPU,
		corev1.ResourceMemory: c.Kubelet.Memory,
		corev1.ResourcePods:   c.Kubelet.Pods,
		// Each pod's volume is made as large as it asks for.
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(1<<50, resource.BinarySI),
	}
	maps.Copy(capacity, c.Kubelet.Capacity)
	now := metav1.Now()
	ready := func(t corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: t, Status: status, Reason: reason, Message: message,
			LastHeartbeatTime: now, LastTransitionTime: now}
	}
	var taints []corev1.Taint
	if !c.DisableTaint {
		taints = []corev1.Taint{{Key: TaintKey, Value: "kip", Effect: corev1.TaintEffectNoSchedule}}
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:   c.Name,
			Labels: NodeLabels(c),
		},
		Spec: corev1.NodeSpec{
			// A scheme of our own: a cloud controller that does not know the node
			// must not take it for a lost instance and delete it.
			ProviderID: "kip://" + c.Name,
			Taints:     taints,
		},
		Status: corev1.NodeStatus{
			Capacity:         capacity,
			Allocatable:      capacity,
			DeclaredFeatures: declaredFeatures,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: c.IP},
				{Type: corev1.NodeHostName, Address: c.Name},
			},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: c.Port}},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion:  c.KubernetesVersion,
				OperatingSystem: "linux",
				Architecture:    runtime.GOARCH,
			},
			Conditions: []corev1.NodeCondition{
				ready(corev1.NodeReady, corev1.ConditionTrue, "KipReady", "Kip launches an instance for every pod"),
				ready(corev1.NodeMemoryPressure, corev1.ConditionFalse, "CellPerPod", "every pod has its own memory"),
				ready(corev1.NodeDiskPressure, corev1.ConditionFalse, "CellPerPod", "every pod has its own disk"),
				ready(corev1.NodePIDPressure, corev1.ConditionFalse, "CellPerPod", "every pod has its own processes"),
				ready(corev1.NodeNetworkUnavailable, corev1.ConditionFalse, "CellPerPod", "every pod has its own address"),
			},
		},
	}
}

// alignTaint gives a virtual node that exists Kip's taint as wanted has it, or
// takes it away: the library sets taints of a node that it makes, and no others.
// Taints of other keys are not Kip's.
func alignTaint(ctx context.Context, nodes coreclient.NodeInterface, wanted *corev1.Node) error {
	ours := func(t corev1.Taint) bool { return t.Key == TaintKey }
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(ctx, wanted.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(node.Spec.Taints, ours) == slices.ContainsFunc(wanted.Spec.Taints, ours) {
			return nil
		}
		node.Spec.Taints = append(slices.DeleteFunc(node.Spec.Taints, ours), wanted.Spec.Taints...)
		_, err = nodes.Update(ctx, node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("setting the taint of node %s: %w", wanted.Name, err)
	}
	return nil
}
