package instancetype

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Region is the catalogue's view of one region: which types it offers in which
// zones at which price. It does not change and is safe for concurrent use.
type Region struct {
	Name string

	// Zones of the region, in alphabetical order. Empty where the catalogue
	// knows none: then every type is taken to be offered in every zone.
	Zones []string

	gp3USD    float64 // of a GiB of volume per month
	entries   []entry // by price: choosing then has little to sort
	byName    map[string]*entry
	catalogue *Catalogue
}

// entry is one type in one region.
type entry struct {
	*InstanceType
	zones        uint64  // bit i: offered in Region.Zones[i]
	onDemandUSD  float64 // 0 unknown
	spotUSD      float64 // average over zones; 0 unknown
	podMemoryMiB int64
	generation   int
	flex         bool // guarantees a part of its CPU only
}

// regionFile is the format of data/regions. A row is [on-demand USD per hour,
// zones as bits, average spot USD per hour]; 0 or missing is unknown.
type regionFile struct {
	Zones  []string              `json:"zones"`
	GP3USD float64               `json:"gp3USD"`
	Types  map[string][3]float64 `json:"types"`
}

func newRegion(name string, raw []byte, c *Catalogue) (*Region, error) {
	var f regionFile
	if err := decodeStrict(raw, &f); err != nil {
		return nil, fmt.Errorf("decoding region %s: %w", name, err)
	}
	if len(f.Zones) > 64 {
		return nil, fmt.Errorf("decoding region %s: more than 64 zones", name)
	}
	if !slices.IsSorted(f.Zones) {
		return nil, fmt.Errorf("decoding region %s: zones must be sorted", name)
	}
	r := &Region{
		Name: name, Zones: f.Zones, catalogue: c, gp3USD: cmp.Or(f.GP3USD, defaultGP3USD),
		entries: make([]entry, 0, len(f.Types)), byName: make(map[string]*entry, len(f.Types)),
	}
	for typeName, row := range f.Types {
		t, ok := c.types[typeName]
		if !ok {
			return nil, fmt.Errorf("decoding region %s: %s is not among the types", name, typeName)
		}
		e := entry{
			InstanceType: t, onDemandUSD: row[0], zones: uint64(row[1]), spotUSD: row[2],
			podMemoryMiB: t.PodMemoryMiB(), generation: generation(typeName),
			flex: strings.Contains(typeName, "-flex."),
		}
		if row[0] < 0 || row[2] < 0 || bits.Len64(e.zones) > len(f.Zones) {
			return nil, fmt.Errorf("decoding region %s: %s: impossible row %v", name, typeName, row)
		}
		if len(f.Zones) == 0 {
			e.zones = ^uint64(0)
		}
		r.entries = append(r.entries, e)
	}
	slices.SortFunc(r.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.onDemandUSD, b.onDemandUSD), cmp.Compare(a.Name, b.Name))
	})
	for i := range r.entries {
		r.byName[r.entries[i].Name] = &r.entries[i]
	}
	return r, nil
}

// SpotUSD is the average spot price of a type per hour; 0 if it is unknown.
func (r *Region) SpotUSD(typeName string) float64 {
	if e, ok := r.byName[typeName]; ok {
		return e.spotUSD
	}
	return 0
}

func (e *entry) soldAs(ct v1beta1.CapacityType) bool {
	switch ct {
	case v1beta1.Spot:
		return e.Spot
	case v1beta1.OnDemand:
		return e.OnDemand
	default:
		return false
	}
}

// price of the instance alone. Where the region's own is unknown, asked types
// get the reference price; ok is false where there is none at all.
func (e *entry) price(spot, asked bool) (usd float64, estimated, ok bool) {
	switch {
	case spot && e.spotUSD > 0:
		return e.spotUSD, false, true
	case e.onDemandUSD > 0:
		// Spot is billed at most the on-demand price.
		return e.onDemandUSD, spot, true
	case asked && e.ReferenceUSD > 0:
		return e.ReferenceUSD, true, true
	default:
		return 0, false, false
	}
}

// generation is the first number in a type's name: 7 in m7g.large. 0 if none.
func generation(name string) int {
	digits := strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz-")
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}
