package instancetype

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Architectures in Kubernetes' words, as in the label kubernetes.io/arch.
const (
	AMD64 = "amd64"
	ARM64 = "arm64"
)

// InstanceType is what is known of one instance type, the same in all regions.
// The JSON names are the format of the catalogue's files.
type InstanceType struct {
	Name string `json:"-"`

	VCPUs     int32 `json:"vcpus"`
	MemoryMiB int64 `json:"memoryMiB"` // as the cloud states it; see PodMemoryMiB

	// Architecture is amd64 or arm64; anything else (a Mac) is the cloud's
	// word for it and never fits a pod.
	Architecture string `json:"arch"`

	// Hypervisor is "nitro" or "xen"; empty on bare metal and where unknown.
	Hypervisor        string `json:"hypervisor,omitempty"`
	BareMetal         bool   `json:"bareMetal,omitempty"`
	CurrentGeneration bool   `json:"current,omitempty"`

	// Burstable types earn CPU credits for BaselineVCPUs (sustained vCPUs of
	// the whole instance) and pay for what they use above.
	Burstable     bool    `json:"burstable,omitempty"`
	BaselineVCPUs float64 `json:"baselineVCPUs,omitempty"`

	GPU *GPU `json:"gpu,omitempty"`

	// MaxENIs and IPv4PerENI are 0 where unknown. A cell needs one interface
	// with two addresses: its own and the pod's.
	MaxENIs    int32 `json:"enis,omitempty"`
	IPv4PerENI int32 `json:"ipv4PerENI,omitempty"`

	OnDemand bool `json:"onDemand,omitempty"`
	Spot     bool `json:"spot,omitempty"`

	InstanceStoreGB int64 `json:"instanceStoreGB,omitempty"`

	// ReferenceUSD is the hourly on-demand price in us-east-1. It stands in
	// where a region's own price is unknown and the pod asked for the type by
	// name. 0 where unknown.
	ReferenceUSD float64 `json:"referenceUSD,omitempty"`
}

// GPU describes the GPUs of one instance type, which are all alike.
type GPU struct {
	// Count is what the node's nvidia.com/gpu would say.
	Count        int32  `json:"count"`
	Name         string `json:"name"`
	Manufacturer string `json:"manufacturer,omitempty"`
	MemoryMiB    int64  `json:"memoryMiB,omitempty"` // of each
	// Fraction is set (0 < Fraction < 1) where the instance gets only a slice
	// of a physical GPU.
	Fraction float64 `json:"fraction,omitempty"`
}

// PodCapacity is what a pod may request on an instance of this type: the
// node's capacity as the cell's kubelet and the scheduler should see it.
func (t *InstanceType) PodCapacity() corev1.ResourceList {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(t.VCPUs), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(t.PodMemoryMiB()<<20, resource.BinarySI),
	}
	if t.hasNVIDIA() {
		capacity[ResourceGPU] = *resource.NewQuantity(int64(t.GPU.Count), resource.DecimalSI)
	}
	return capacity
}

// hasNVIDIA: the resource by which pods ask for GPUs is NVIDIA's.
func (t *InstanceType) hasNVIDIA() bool {
	return t.GPU != nil && strings.EqualFold(t.GPU.Manufacturer, "NVIDIA")
}
