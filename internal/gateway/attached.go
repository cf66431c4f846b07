package gateway

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// attachedVolumes are the volumes of the cell's pod that the API server's Node
// says to be attached, which is what a kubelet waits for before it mounts one.
// Who attached them wrote it there, about all cells at once; of other pods'
// volumes the cell learns nothing.
func (c *call) attachedVolumes() ([]corev1.AttachedVolume, error) {
	if c.pod == nil {
		return nil, nil
	}
	volumes, err := c.csiVolumes()
	if err != nil || len(volumes) == 0 {
		return nil, err
	}
	var node corev1.Node
	if _, err := c.fetch(pathOf(nodes, reference{name: c.cell.NodeName}), &node); err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	var own []corev1.AttachedVolume
	for _, v := range volumes {
		name := attachedName(v.Spec.CSI)
		i := slices.IndexFunc(node.Status.VolumesAttached, func(v corev1.AttachedVolume) bool { return v.Name == name })
		if i >= 0 {
			own = append(own, node.Status.VolumesAttached[i])
			continue
		}
		driver, err := c.csiDriver(v.Spec.CSI.Driver)
		if err != nil {
			return nil, err
		}
		// A driver that does not say otherwise has its volumes attached first.
		if driver == nil || driver.Spec.AttachRequired == nil || *driver.Spec.AttachRequired {
			c.tellMissing(Missing{Kind: "VolumeAttachment", Name: v.Name})
		}
	}
	// They came in the order of a map: another one would be another node.
	slices.SortFunc(own, func(a, b corev1.AttachedVolume) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return own, nil
}

// attachedName is what a volume is called in a Node's status.
func attachedName(v *corev1.CSIPersistentVolumeSource) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + v.Driver + "^" + v.VolumeHandle)
}
