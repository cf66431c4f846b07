package instancetype

import (
	"cmp"
	"slices"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Reason is why an instance type does not do for a pod.
type Reason string

const (
	ReasonNotAskedFor  Reason = "NotAskedFor"     // the pod names other types
	ReasonArchitecture Reason = "Architecture"    // not one the pod accepts
	ReasonBareMetal    Reason = "BareMetal"       // left out unless asked for: minutes to boot
	ReasonOldPlatform  Reason = "OldPlatform"     // Xen or older: left out unless asked for
	ReasonAddresses    Reason = "TooFewAddresses" // no second IPv4 address for the pod
	ReasonCPU          Reason = "TooFewCPUs"
	ReasonMemory       Reason = "TooLittleMemory"
	ReasonGPUs         Reason = "NoSuchGPUs"      // too few, or another model
	ReasonGPUSlice     Reason = "GPUSlice"        // only a part of a GPU: left out unless asked for
	ReasonCPUBaseline  Reason = "CPUBaseline"     // a flex type, whose CPU is not all guaranteed
	ReasonZone         Reason = "Zone"            // not offered in an accepted zone
	ReasonCapacityType Reason = "CapacityType"    // not sold as spot, or only so
	ReasonPrice        Reason = "UnknownPrice"    // in this region
	ReasonUnavailable  Reason = "RecentlyRefused" // every zone refused it a short while ago
)

// RuledOut is a group of instance types that fell for the same reason.
type RuledOut struct {
	Reason  Reason `json:"reason"`
	Count   int    `json:"count"`
	Message string `json:"message"`
	// InstanceTypes are the names, if they are few.
	InstanceTypes []string `json:"instanceTypes,omitempty"`
}

// fewTypes is how many names a RuledOut lists.
const fewTypes = 5

// reasonCounts gathers failed types by the check they failed, as indexed in
// checks.
type reasonCounts [numChecks]struct {
	count int
	best  *entry
	few   [fewTypes]*entry
}

func (r *reasonCounts) add(failed int, e *entry) {
	g, c := &r[failed], &checks[failed]
	if g.count < fewTypes {
		g.few[g.count] = e
	}
	g.count++
	if g.best == nil || c.closeness != nil && c.closeness(e) > c.closeness(g.best) {
		g.best = e
	}
}

func (r *reasonCounts) ruledOut(q *query) []RuledOut {
	var out []RuledOut
	for i, c := range checks {
		g := &r[i]
		if g.count == 0 {
			continue
		}
		o := RuledOut{Reason: c.reason, Count: g.count, Message: c.group(q, g.best)}
		if g.count <= fewTypes {
			for _, e := range g.few[:g.count] {
				o.InstanceTypes = append(o.InstanceTypes, e.Name)
			}
			slices.Sort(o.InstanceTypes)
		}
		out = append(out, o)
	}
	slices.SortStableFunc(out, func(a, b RuledOut) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// Verdict says why one instance type does or does not do.
type Verdict struct {
	InstanceType string `json:"instanceType"`
	Fits         bool   `json:"fits"`
	// Reasons are all that apply; Messages in the same order.
	Reasons  []Reason `json:"reasons,omitempty"`
	Messages []string `json:"messages,omitempty"`
}

// Explain says what stands against one instance type. The error is that of an
// unknown type, or of one that the region does not offer.
func (r *Region) Explain(name string, req v1beta1.Requirements, opts Options) (Verdict, error) {
	e, ok := r.byName[name]
	if !ok {
		return Verdict{}, &UnknownTypeError{Type: name, Region: r}
	}
	q := r.newQuery(req, opts)
	v := Verdict{InstanceType: name, Fits: true}
	for _, c := range checks {
		if c.reason == ReasonGPUSlice && e.GPU == nil || !c.fails(q, e) {
			continue
		}
		v.Fits = false
		v.Reasons = append(v.Reasons, c.reason)
		v.Messages = append(v.Messages, c.group(q, e))
	}
	return v, nil
}
