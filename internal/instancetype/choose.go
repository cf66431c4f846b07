package instancetype

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Result is the answer to Region.Offerings.
type Result struct {
	// Offerings fit, in the order in which they should be tried.
	Offerings []Offering `json:"offerings"`

	// Considered is the number of instance types of the region; RuledOut says
	// why those that are not among the offerings are not. A type counts
	// once, for the first reason that applies.
	Considered int        `json:"considered"`
	RuledOut   []RuledOut `json:"ruledOut,omitempty"`

	err *NoFitError
}

// Err is nil if there is an offering, else a *NoFitError.
func (r Result) Err() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

// query is a request prepared for many comparisons.
type query struct {
	region *Region
	req    v1beta1.Requirements
	opts   Options

	cpuMillis     int64
	memoryMiB     int64 // rounded up
	architectures []string
	capacityTypes []v1beta1.CapacityType // each once, the preferred first
	zones         []zone
	zoneBits      uint64
	unavailable   map[Key]time.Time
	volumeUSD     float64
	publicIPv4USD float64
}

// zone is an accepted zone and its bit in entry.zones.
type zone struct {
	name string
	bit  uint64
}

func (r *Region) newQuery(req v1beta1.Requirements, opts Options) *query {
	q := &query{
		region: r, req: req, opts: opts,
		cpuMillis:     req.CPU.MilliValue(),
		memoryMiB:     (req.Memory.Value() + 1<<20 - 1) >> 20,
		architectures: req.Architectures,
	}
	for _, ct := range req.CapacityTypes {
		if !slices.Contains(q.capacityTypes, ct) {
			q.capacityTypes = append(q.capacityTypes, ct)
		}
	}
	if len(q.capacityTypes) == 0 {
		q.capacityTypes = []v1beta1.CapacityType{v1beta1.OnDemand}
	}
	q.unavailable = opts.Unavailable.snapshot(opts.Now)
	if opts.PublicIPv4 {
		q.publicIPv4USD = publicIPv4USD
	}
	q.volumeUSD = round(r.gp3USD * float64(cmp.Or(req.VolumeGiB, opts.DefaultVolumeGiB, DefaultVolumeGiB)) / hoursPerMonth)

	q.zones = r.acceptedZones(req.Zones, opts.Zones)
	for _, z := range q.zones {
		q.zoneBits |= z.bit
	}
	return q
}

// acceptedZones are the zones to choose from, the preferred first: those in
// which an instance can be launched (all if empty) and that the pod accepts.
//
// Of a region whose zones the catalogue does not know, the zones given are
// taken to exist, else those that the pod names, else one without a name, which
// leaves the zone to the cloud.
func (r *Region) acceptedZones(accepted, launchable []string) []zone {
	names := launchable
	if len(names) == 0 {
		names = r.Zones
	}
	if len(names) == 0 {
		names = slices.DeleteFunc(slices.Clone(accepted), func(p string) bool { return !isExact(p) })
	}
	if len(names) == 0 {
		return []zone{{"", 1}}
	}
	var zones []zone
	for _, name := range names {
		z := zone{name, 1} // entries of such a region have all bits set
		if len(r.Zones) > 0 {
			i, known := slices.BinarySearch(r.Zones, name)
			if !known {
				continue
			}
			z.bit = 1 << i
		}
		if matches(accepted, name) && !slices.Contains(zones, z) {
			zones = append(zones, z)
		}
	}
	return zones
}

// asked says whether the pod wants this type in particular.
func (q *query) asked(e *entry) bool { return asked(q.req.InstanceTypes, e.Name) }

// cost is what the type costs; ok is false where it cannot be bought so, or at
// an unknown price.
func (q *query) cost(e *entry, ct v1beta1.CapacityType) (Cost, bool) {
	usd, estimated, ok := e.price(ct == v1beta1.Spot, q.asked(e))
	if !ok || !e.soldAs(ct) {
		return Cost{}, false
	}
	return Cost{
		Instance: round(usd), Estimated: estimated,
		Surplus: round(e.surplus(q.cpuMillis)), Volume: q.volumeUSD, PublicIPv4: q.publicIPv4USD,
	}, true
}

func (q *query) buyable(e *entry, ct v1beta1.CapacityType) bool {
	_, ok := q.cost(e, ct)
	return ok
}

// candidate is a type that fits, bought one way.
type candidate struct {
	*entry
	capacityType v1beta1.CapacityType
	preference   int // of the capacity type, 0 the first
	cost         Cost
	micros       int64
}

// Offerings returns what can hold the pod, cheapest first.
//
// The order is total: by whole hourly cost; of equal cost the capacity type that
// the requirements name first, the newer generation, the name of the type, and
// the zone in the order of opts.Zones. The same arguments give the same answer.
//
// So a pod that accepts spot and on-demand gets spot as long as spot is not the
// dearer of the two: a large spot instance is no bargain where a small on-demand
// one would do.
func (r *Region) Offerings(req v1beta1.Requirements, opts Options) Result {
	q := r.newQuery(req, opts)
	result := Result{Considered: len(r.entries)}
	var counts reasonCounts
	var candidates []candidate
	for i := range r.entries {
		e := &r.entries[i]
		if i := q.firstFailed(e); i >= 0 {
			counts.add(i, e)
			continue
		}
		for preference, ct := range q.capacityTypes {
			if cost, ok := q.cost(e, ct); ok {
				candidates = append(candidates, candidate{e, ct, preference, cost, cost.micros()})
			}
		}
	}
	slices.SortFunc(candidates, compareCandidates)

	for _, c := range candidates {
		for _, z := range q.zones {
			if opts.Limit > 0 && len(result.Offerings) == opts.Limit {
				break
			}
			if c.zones&z.bit != 0 && !q.isUnavailable(c.Name, z.name, c.capacityType) {
				result.Offerings = append(result.Offerings, c.offering(z.name))
			}
		}
	}
	result.RuledOut = counts.ruledOut(q)
	if len(result.Offerings) == 0 {
		result.err = q.noFit(result)
	}
	return result
}

func compareCandidates(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(a.micros, b.micros),
		cmp.Compare(a.preference, b.preference),
		cmp.Compare(b.generation, a.generation),
		strings.Compare(a.Name, b.Name),
	)
}

func (c candidate) offering(zone string) Offering {
	o := Offering{
		InstanceType: c.Name, Zone: zone, CapacityType: c.capacityType, Architecture: c.Architecture,
		VCPUs: c.VCPUs, MemoryMiB: c.MemoryMiB, HourlyUSD: c.cost.Total(), Cost: c.cost,
	}
	if c.GPU != nil {
		o.GPUs = c.GPU.Count
	}
	return o
}

func (q *query) isUnavailable(name, zone string, ct v1beta1.CapacityType) bool {
	if q.unavailable == nil {
		return false
	}
	_, ok := q.unavailable[Key{name, zone, ct}]
	return ok
}
