package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// patchPodStatus applies the kubelet's patch to the pod as GET shows it. All
// that is taken of the outcome is the status.
func (c *call) patchPodStatus() error {
	if err := c.ownPod(); err != nil {
		return err
	}
	patched, patch, err := c.patchBody(c.currentPod())
	if err != nil {
		return err
	}
	// The kubelet always says which pod it means. Without that, news of an
	// earlier pod of the same name would be taken for this one's.
	meta, _ := patch["metadata"].(map[string]any)
	if uid, _ := meta["uid"].(string); uid != string(c.pod.UID) {
		return c.otherPod(types.UID(uid))
	}
	var pod corev1.Pod
	if err := json.Unmarshal(patched, &pod); err != nil {
		return invalid("the patched object is no Pod")
	}
	if _, ok := meta["resourceVersion"]; !ok {
		pod.ResourceVersion = "" // any will do, also a newer one
	}
	return c.setPodStatus(&pod)
}

// updatePodStatus takes the status of a whole pod.
func (c *call) updatePodStatus() error {
	if err := c.ownPod(); err != nil {
		return err
	}
	var pod corev1.Pod
	if err := c.decodeBody(&pod, corev1.SchemeGroupVersion.WithKind("Pod")); err != nil {
		return err
	}
	if pod.UID != c.pod.UID {
		return c.otherPod(pod.UID)
	}
	return c.setPodStatus(&pod)
}

// currentPod is the pod as GET shows it, version included.
func (c *call) currentPod() *corev1.Pod {
	c.refreshPod()
	_, version := c.cellState.pod.single.Get()
	pod := visiblePod(c.pod)
	pod.ResourceVersion = watchcache.Format(version)
	return pod
}

func (c *call) otherPod(uid types.UID) error {
	if uid == "" {
		return invalid("metadata.uid must name the pod that the status is of")
	}
	return apierrors.NewConflict(pods.GroupResource(), c.req.name,
		fmt.Errorf("the UID %s is not that of the pod of this cell", printable(string(uid))))
}

// setPodStatus hands a pod's new status on, if it is one that this cell can
// truthfully report, and answers with the pod.
func (c *call) setPodStatus(reported *corev1.Pod) error {
	if reported.Name != c.pod.Name || reported.Namespace != c.pod.Namespace {
		return invalid("the name and namespace of a pod cannot change")
	}
	if version := reported.ResourceVersion; version != "" && version != c.currentPod().ResourceVersion {
		return apierrors.NewConflict(pods.GroupResource(), c.req.name, fmt.Errorf("it was changed meanwhile: apply the change to the newest version"))
	}
	status := reported.Status
	if err := c.checkAddresses(&status); err != nil {
		return err
	}
	// These are not a kubelet's to say.
	current := &c.pod.Status
	status.QOSClass = current.QOSClass
	status.NominatedNodeName = current.NominatedNodeName
	status.ResourceClaimStatuses = current.ResourceClaimStatuses
	status.ExtendedResourceClaimStatus = current.ExtendedResourceClaimStatus

	pod, err := c.g.sink.SetPodStatus(c.ctx, c.name, c.pod.UID, status)
	if err != nil {
		return fmt.Errorf("setting the pod's status: %w", err)
	}
	if pod == nil {
		return apierrors.NewNotFound(pods.GroupResource(), c.req.name)
	}
	return c.writePod(pod)
}

// checkAddresses refuses a status with addresses that are not the cell's: it
// would draw the traffic of Services to a place of the cell's choice.
func (c *call) checkAddresses(status *corev1.PodStatus) error {
	if c.cell.PodIP == "" || c.cell.InternalIP == "" {
		return nil // not known yet
	}
	own := func(ip string) bool { return ip == "" || ip == c.cell.PodIP || ip == c.cell.InternalIP }
	ok := own(status.PodIP)
	for _, ip := range status.PodIPs {
		ok = ok && own(ip.IP)
	}
	ok = ok && (status.HostIP == "" || status.HostIP == c.cell.InternalIP)
	for _, ip := range status.HostIPs {
		ok = ok && (ip.IP == "" || ip.IP == c.cell.InternalIP)
	}
	if !ok {
		return refuse("the status has addresses that are not this cell's (pod %s, host %s)", c.cell.PodIP, c.cell.InternalIP)
	}
	return nil
}

// writePod answers with a pod that the sink returned.
func (c *call) writePod(pod *corev1.Pod) error {
	c.refreshPod()
	_, version := c.cellState.pod.single.Get()
	visible := visiblePod(pod)
	visible.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	visible.ResourceVersion = watchcache.Format(version)
	data, err := json.Marshal(visible)
	if err != nil {
		return fmt.Errorf("encoding the pod: %w", err)
	}
	return c.writeJSON(http.StatusOK, data)
}

// deletePod is the kubelet's word that nothing of a pod that was being deleted
// is left. It is no way for a cell to have its pod deleted.
func (c *call) deletePod() error {
	if err := c.ownPod(); err != nil {
		return err
	}
	var options metav1.DeleteOptions
	if err := c.decodeDeleteOptions(&options); err != nil {
		return err
	}
	switch {
	case options.Preconditions == nil || options.Preconditions.UID == nil:
		return refuse("a pod can only be deleted with its UID as a precondition")
	case *options.Preconditions.UID != c.pod.UID:
		return c.otherPod(*options.Preconditions.UID)
	case options.GracePeriodSeconds == nil || *options.GracePeriodSeconds != 0:
		return refuse("a kubelet deletes a pod only when it has ended, with a grace period of 0")
	case len(options.DryRun) > 0 || options.PropagationPolicy != nil || options.Preconditions.ResourceVersion != nil:
		return refuse("a kubelet does not delete a pod with these options")
	case c.pod.DeletionTimestamp == nil:
		return refuse("nobody has asked for the pod to be deleted")
	}
	if err := c.g.sink.PodTerminated(c.ctx, c.name, c.pod.UID); err != nil {
		return fmt.Errorf("reporting the pod as terminated: %w", err)
	}
	writeSuccess(c.w)
	return nil
}
