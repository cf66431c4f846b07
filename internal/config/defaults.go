package config

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// InstanceDefaults are the choices for pods that make none.
func (c *Config) InstanceDefaults() instancetype.Defaults {
	capacityTypes, _ := instancetype.CapacityTypes(c.Cells.DefaultLaunchType) // was checked
	return instancetype.Defaults{
		InstanceType:  c.Cells.DefaultInstanceType,
		CapacityTypes: capacityTypes,
		Architectures: c.Cells.Architectures,
		Zone:          c.Kubelet.Labels[corev1.LabelTopologyZone],
		VolumeGiB:     c.Cells.VolumeGiB(),
	}
}

// VolumeGiB is the default size of root volumes, in whole GiB.
func (c *Cells) VolumeGiB() int32 {
	return int32((c.DefaultVolumeSize.Value() + 1<<30 - 1) >> 30)
}
