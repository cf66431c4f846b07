package instancetype

import "strings"

// What the cell itself needs of its instance, besides the pod. Everything that
// is not the pod is in here or in kernelMemoryMiB; there is no other reserve.
const (
	// CellMemoryMiB is kept from the pod. Measured with Kubernetes 1.36 and
	// containerd 2.3, unreclaimable (RssAnon): kubelet 25 MiB, containerd 19,
	// kube-proxy 13, the pod's shim 5, kip-cell about 12, the init system and
	// its journal of a stock image about 20: 94, budgeted as 96. The other
	// 64 are headroom for page cache, without which kubelet and containerd
	// read their own text from disk over and over, and for the kubelet's
	// eviction threshold, which must not exceed it.
	CellMemoryMiB = 96 + 64

	// CellCPUMillis is the steady use of the same programs. It counts where
	// CPU is metered (credits of burstable types), not against whole vCPUs:
	// CPU is shared by weight, and a pod that asks for 2 vCPUs must not be
	// given a machine of 4 for 20 thousandths.
	CellCPUMillis = 20
)

// Pods that request nothing still need something to be sized by: enough for
// a small server, and together with the cell itself within the smallest
// instances and below their CPU baseline.
const (
	DefaultCPUMillis = 50
	DefaultMemoryMiB = 128
)

// kernelMemoryMiB is what firmware, hypervisor and kernel keep of the memory
// that the cloud states, that is: memoryMiB - MemTotal. It is an upper bound,
// so that a pod that fits on paper fits in fact, fitted to measurements of 480
// types on Amazon Linux that Karpenter's authors published
// (karpenter-provider-aws, zz_generated.memory_overhead.go, 2023): 89 MiB of
// 512, 253 of 4096, 757 of 16384, 38113 of 1048576. Three parts explain them:
//
//   - 64 MiB for kernel text, initial tables and firmware, and 80 more from
//     2 GiB on, where the kernel reserves a bounce buffer;
//   - 5.3 % of the first 16 GiB and 3.9 % of the rest: page structures (1.6 %)
//     and what Nitro keeps;
//   - 1.5 % more on the first Nitro families, whose hypervisor keeps more.
func kernelMemoryMiB(t *InstanceType) int64 {
	const (
		fixed        = 64
		bounceBuffer = 80
		boundary     = 16 << 10
	)
	m := t.MemoryMiB
	kept := fixed + min(m, boundary)*53/1000 + max(0, m-boundary)*39/1000
	if m >= 2<<10 {
		kept += bounceBuffer
	}
	family, _, _ := strings.Cut(t.Name, ".")
	switch family {
	case "a1", "c5", "c5d", "c5n":
		kept += m * 15 / 1000
	}
	return kept
}

// PodMemoryMiB is the memory a pod may request on an instance of this type:
// the stated memory less what the kernel keeps and what the cell needs. Not
// below 0.
func (t *InstanceType) PodMemoryMiB() int64 {
	return max(0, t.MemoryMiB-kernelMemoryMiB(t)-CellMemoryMiB)
}
