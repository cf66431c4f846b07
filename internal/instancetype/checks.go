package instancetype

import (
	"fmt"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// check is one condition that a type must meet.
type check struct {
	reason Reason
	fails  func(q *query, e *entry) bool
	// group says what the failed types have in common, as in "fewer than 8
	// vCPUs"; best is the one among them that came closest.
	group func(q *query, best *entry) string
	// closeness orders failed types; may be nil.
	closeness func(e *entry) int64
}

const numChecks = 14

// checks in the order in which they are applied: first what the pod asks for
// in so many words, then what Kip leaves out, then sizes, then the market.
// The order decides only under which reason a type is counted.
var checks = [numChecks]check{{
	reason: ReasonNotAskedFor,
	fails:  func(q *query, e *entry) bool { return !matches(q.req.InstanceTypes, e.Name) },
	group: func(q *query, _ *entry) string {
		return "not asked for (the pod asks for " + strings.Join(q.req.InstanceTypes, ", ") + ")"
	},
}, {
	reason: ReasonArchitecture,
	fails:  func(q *query, e *entry) bool { return !q.acceptsArchitecture(e) },
	group: func(q *query, _ *entry) string {
		return "not " + orList(q.wantedArchitectures())
	},
}, {
	reason: ReasonBareMetal,
	fails:  func(q *query, e *entry) bool { return e.BareMetal && !q.asked(e) },
	group:  func(*query, *entry) string { return "bare metal, used only when asked for by name" },
}, {
	reason: ReasonOldPlatform,
	fails: func(q *query, e *entry) bool {
		return !e.BareMetal && e.Hypervisor != "nitro" && !q.asked(e) && !(len(q.req.GPUModels) > 0 && q.acceptsGPUModel(e))
	},
	group: func(*query, *entry) string { return "old platform (Xen), used only when asked for by name" },
}, {
	reason: ReasonAddresses,
	fails:  func(_ *query, e *entry) bool { return e.IPv4PerENI == 1 },
	group:  func(*query, *entry) string { return "no second address for the pod" },
}, {
	reason: ReasonGPUs,
	fails: func(q *query, e *entry) bool {
		return q.req.GPUs > 0 && (!q.acceptsGPUModel(e) || e.GPU.Count < q.req.GPUs)
	},
	group: func(q *query, best *entry) string { return q.gpuMessage(best) },
	closeness: func(e *entry) int64 {
		if !e.hasNVIDIA() {
			return 0
		}
		return int64(e.GPU.Count)
	},
}, {
	reason: ReasonGPUSlice,
	fails:  func(q *query, e *entry) bool { return q.req.GPUs > 0 && e.GPU.Fraction > 0 && !q.asked(e) },
	group:  func(*query, *entry) string { return "only a slice of a GPU, used only when asked for by name" },
}, {
	reason: ReasonCPU,
	fails:  func(q *query, e *entry) bool { return int64(e.VCPUs)*1000 < q.cpuMillis },
	group: func(q *query, best *entry) string {
		return fmt.Sprintf("fewer than %s (at most %d: %s)", formatCPU(q.cpuMillis), best.VCPUs, best.Name)
	},
	closeness: func(e *entry) int64 { return int64(e.VCPUs) },
}, {
	reason: ReasonMemory,
	fails:  func(q *query, e *entry) bool { return e.podMemoryMiB < q.memoryMiB },
	group: func(q *query, best *entry) string {
		return fmt.Sprintf("less than %s of memory left for the pod (at most %s: %s)",
			formatMiB(q.memoryMiB), formatMiB(best.podMemoryMiB), best.Name)
	},
	closeness: func(e *entry) int64 { return e.podMemoryMiB },
}, {
	reason: ReasonCPUBaseline,
	fails: func(q *query, e *entry) bool {
		// Flex types promise 40 % of their CPU; more is given on most days.
		return e.flex && q.cpuMillis+CellCPUMillis > int64(e.VCPUs)*400 && !q.asked(e)
	},
	group: func(q *query, _ *entry) string {
		return fmt.Sprintf("flex type that guarantees less than %s, used only when asked for by name", formatCPU(q.cpuMillis))
	},
}, {
	reason: ReasonZone,
	fails:  func(q *query, e *entry) bool { return e.zones&q.zoneBits == 0 },
	group:  func(q *query, _ *entry) string { return "not offered in " + q.zoneNames() },
}, {
	reason: ReasonCapacityType,
	fails: func(q *query, e *entry) bool {
		return !slices.ContainsFunc(q.capacityTypes, e.soldAs)
	},
	group: func(q *query, _ *entry) string {
		var names []string
		for _, ct := range q.capacityTypes {
			names = append(names, string(ct))
		}
		return "not sold as " + orList(names)
	},
}, {
	reason: ReasonPrice,
	fails: func(q *query, e *entry) bool {
		return !slices.ContainsFunc(q.capacityTypes, func(ct v1beta1.CapacityType) bool { return q.buyable(e, ct) })
	},
	group: func(q *query, _ *entry) string {
		return "no known price in " + q.region.Name + ", used only when asked for by name"
	},
}, {
	reason: ReasonUnavailable,
	fails:  func(q *query, e *entry) bool { return q.unavailable != nil && !q.anyAvailable(e) },
	group:  func(*query, *entry) string { return "refused by the cloud for lack of capacity a short while ago" },
}}

// firstFailed is the index in checks, -1 if the type fits.
func (q *query) firstFailed(e *entry) int {
	return slices.IndexFunc(checks[:], func(c check) bool { return c.fails(q, e) })
}

// wantedArchitectures is never empty.
func (q *query) wantedArchitectures() []string {
	if len(q.architectures) == 0 {
		return []string{AMD64}
	}
	return q.architectures
}

// acceptsArchitecture: a pod that says nothing of architectures gets amd64,
// unless it names a type of another one by its full name.
func (q *query) acceptsArchitecture(e *entry) bool {
	if len(q.architectures) > 0 {
		return slices.Contains(q.architectures, e.Architecture)
	}
	return e.Architecture == AMD64 || e.Architecture == ARM64 && named(q.req.InstanceTypes, e.Name)
}

func (q *query) acceptsGPUModel(e *entry) bool {
	return e.hasNVIDIA() && matches(q.req.GPUModels, e.GPU.Name)
}

func (q *query) anyAvailable(e *entry) bool {
	for _, z := range q.zones {
		for _, ct := range q.capacityTypes {
			if q.buyable(e, ct) && e.zones&z.bit != 0 && !q.isUnavailable(e.Name, z.name, ct) {
				return true
			}
		}
	}
	return false
}

func (q *query) zoneNames() string {
	if len(q.zones) == 0 {
		return "any zone that the pod accepts and the configuration has a subnet in"
	}
	var names []string
	for _, z := range q.zones {
		names = append(names, z.name)
	}
	return orList(names)
}

func (q *query) gpuMessage(best *entry) string {
	s := "no NVIDIA GPU"
	if q.req.GPUs > 1 {
		s = fmt.Sprintf("fewer than %d NVIDIA GPUs", q.req.GPUs)
	}
	if len(q.req.GPUModels) > 0 {
		s += " of model " + orList(q.req.GPUModels)
		var models []string
		for i := range q.region.entries {
			e := &q.region.entries[i]
			if q.acceptsGPUModel(e) {
				return s // the model exists: the number is the matter
			}
			if e.hasNVIDIA() {
				models = append(models, e.GPU.Name)
			}
		}
		slices.Sort(models)
		return s + " (models are " + strings.Join(slices.Compact(models), ", ") + ")"
	}
	if best.hasNVIDIA() {
		s += fmt.Sprintf(" (at most %d: %s)", best.GPU.Count, best.Name)
	}
	return s
}
