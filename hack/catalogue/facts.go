package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// facts is the input, as far as it is used.
type facts struct {
	Types     map[string]factType
	Prices    map[string]map[string]float64
	Spot      map[string]map[string][]float64 // min, average, max, …
	Offerings map[string]struct {
		AZs    []string          `json:"azs"`
		ByMask map[string]string `json:"byMask"`
	}
	GP3 struct {
		Regions map[string]struct {
			GBMonth float64 `json:"gbMonth"`
		} `json:"regions"`
	}
}

type factType struct {
	VCPUs              int32    `json:"vcpus"`
	MemoryMiB          int64    `json:"memoryMiB"`
	Architectures      []string `json:"architectures"`
	Hypervisor         string   `json:"hypervisor"`
	BareMetal          bool     `json:"bareMetal"`
	CurrentGeneration  bool     `json:"currentGeneration"`
	Burstable          bool     `json:"burstable"`
	BaselineVCPUs      float64  `json:"baselineVcpus"`
	UsageClasses       []string `json:"usageClasses"`
	MaxENIs            int32    `json:"maxENIs"`
	IPv4PerENI         int32    `json:"ipv4PerENI"`
	InstanceStoreBytes int64    `json:"instanceStoreBytes"`
	GPUs               []struct {
		Count        int32   `json:"count"`
		LogicalCount int32   `json:"logicalCount"`
		Partition    float64 `json:"partition"`
		Name         string  `json:"name"`
		Manufacturer string  `json:"manufacturer"`
		MemoryMiB    int64   `json:"memoryMiB"`
	} `json:"gpus"`
	// Types that the API no longer lists have these instead.
	GPUCount     int32  `json:"gpuCount"`
	GPUModel     string `json:"gpuModel"`
	GPUMemoryMiB int64  `json:"gpuMemoryMiB"`
}

func readFacts(dir string) (*facts, error) {
	var f facts
	for _, in := range []struct {
		file, key string
		into      any
	}{
		{"ec2-instance-types.json", "types", &f.Types},
		{"ec2-prices.json", "prices", &f.Prices},
		{"ec2-spot.json", "spot", &f.Spot},
		{"ec2-offerings.json", "regions", &f.Offerings},
		{"fargate-prices.json", "ebsGp3", &f.GP3},
	} {
		raw, err := os.ReadFile(filepath.Join(dir, in.file))
		if err != nil {
			return nil, err
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, fmt.Errorf("%s: %w", in.file, err)
		}
		if err := json.Unmarshal(doc[in.key], in.into); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", in.file, in.key, err)
		}
	}
	return &f, nil
}

// types is the content of types.json.
func (f *facts) types() map[string]instancetype.InstanceType {
	out := map[string]instancetype.InstanceType{}
	for name, t := range f.Types {
		out[name] = instancetype.InstanceType{
			VCPUs:             t.VCPUs,
			MemoryMiB:         t.MemoryMiB,
			Architecture:      t.architecture(),
			Hypervisor:        t.Hypervisor,
			BareMetal:         t.BareMetal || strings.Contains(name, ".metal"),
			CurrentGeneration: t.CurrentGeneration,
			Burstable:         t.Burstable,
			BaselineVCPUs:     t.BaselineVCPUs,
			GPU:               t.gpu(),
			MaxENIs:           t.MaxENIs,
			IPv4PerENI:        t.IPv4PerENI,
			// Types without a list are old ones, all of which are sold on demand.
			OnDemand:        len(t.UsageClasses) == 0 || slices.Contains(t.UsageClasses, "on-demand"),
			Spot:            slices.Contains(t.UsageClasses, "spot"),
			InstanceStoreGB: t.InstanceStoreBytes / 1e9,
			ReferenceUSD:    f.Prices["us-east-1"][name],
		}
	}
	return out
}

func (t factType) architecture() string {
	switch {
	case slices.Contains(t.Architectures, "x86_64"):
		return instancetype.AMD64
	case slices.Contains(t.Architectures, "arm64"):
		return instancetype.ARM64
	default:
		return strings.Join(t.Architectures, ",")
	}
}

func (t factType) gpu() *instancetype.GPU {
	if len(t.GPUs) == 0 {
		if t.GPUCount == 0 {
			return nil
		}
		manufacturer, model, _ := strings.Cut(t.GPUModel, " ")
		return &instancetype.GPU{
			Count: t.GPUCount, Manufacturer: manufacturer, Name: strings.TrimPrefix(model, "Tesla "),
			MemoryMiB: t.GPUMemoryMiB / int64(t.GPUCount),
		}
	}
	g := t.GPUs[0] // no type mixes models
	gpu := &instancetype.GPU{Count: g.Count, Name: g.Name, Manufacturer: g.Manufacturer, MemoryMiB: g.MemoryMiB}
	if g.Partition > 0 && g.Partition < 1 {
		// The API counts whole GPUs; the node shows the slice as one.
		gpu.Count, gpu.Fraction = g.LogicalCount, g.Partition
	}
	return gpu
}

// region is the content of regions/NAME.json. GP3USD is the price of a GiB of
// gp3 volume per month. A row is the on-demand price in
// USD per hour, the zones as bits, the average spot price; 0 is unknown, and
// unknown numbers at the end are left out.
type region struct {
	Zones  []string             `json:"zones,omitempty"`
	GP3USD float64              `json:"gp3USD,omitempty"`
	Types  map[string][]float64 `json:"types"`
}

// regions leaves out the local and Wavelength zones, which the price list
// counts as regions but of whose zones nothing is known, and regions whose
// prices are not in USD.
func (f *facts) regions() (map[string]region, error) {
	out := map[string]region{}
	for name, prices := range f.Prices {
		if strings.HasPrefix(name, "cn-") || strings.Count(name, "-") > 2 && !strings.HasPrefix(name, "us-gov-") {
			continue
		}
		offered := map[string]uint64{}
		o := f.Offerings[name]
		for mask, types := range o.ByMask {
			bits, err := strconv.ParseUint(mask, 10, 53) // becomes a JSON number
			if err != nil {
				return nil, fmt.Errorf("offerings of %s: mask %q: %w", name, mask, err)
			}
			for _, t := range strings.Fields(types) {
				offered[t] = bits
			}
		}
		if len(o.AZs) == 0 {
			for t := range prices {
				offered[t] = 0
			}
		}
		r := region{Zones: o.AZs, GP3USD: f.GP3.Regions[name].GBMonth, Types: map[string][]float64{}}
		for t, bits := range offered {
			if _, known := f.Types[t]; !known {
				continue
			}
			var spot float64
			if s := f.Spot[name][t]; len(s) > 1 {
				spot = s[1]
			}
			row := []float64{prices[t], float64(bits), spot}
			for len(row) > 0 && row[len(row)-1] == 0 {
				row = row[:len(row)-1]
			}
			r.Types[t] = row
		}
		out[name] = r
	}
	return out, nil
}
