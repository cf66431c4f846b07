package e2e

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// search finds the cheapest instance type by looking at each, in the data that
// Kip ships and for pods of one container. Of the code that chooses in Kip it
// shares only what a type leaves for its pod (PodMemoryMiB), which is a
// definition; prices, conditions and order are its own.
type search struct {
	types  map[string]instancetype.InstanceType
	region struct {
		Zones  []string             `json:"zones"`
		GP3USD float64              `json:"gp3USD"`
		Types  map[string][]float64 `json:"types"`
	}
}

type choice struct{ Type, Capacity, USD string }

func newSearch(t *testing.T) *search {
	t.Helper()
	s := &search{}
	for file, into := range map[string]any{"types.json.gz": &s.types, "regions/" + region + ".json.gz": &s.region} {
		f, err := os.Open(filepath.Join(shared.Root, "internal", "instancetype", "data", file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(z).Decode(into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return s
}

// cheapest is the type whose whole price is the lowest; of several the newest
// generation, then the first by name.
func (s *search) cheapest(pod *corev1.Pod) choice {
	request := pod.Spec.Containers[0].Resources.Requests
	cpu, memory := request.Cpu().AsApproximateFloat64(), request.Memory().AsApproximateFloat64()/(1<<20)
	spot := pod.Annotations["pod.elotl.co/launch-type"] == "spot"
	pattern := pod.Annotations["pod.elotl.co/instance-type"]

	var best string
	var lowest int64
	for name, row := range s.region.Types {
		t := s.types[name]
		t.Name = name
		price := row[0]
		if spot {
			if !t.Spot {
				continue
			}
			if len(row) > 2 && row[2] > 0 {
				price = row[2]
			}
		} else if !t.OnDemand {
			continue
		}
		if wanted, _ := path.Match(pattern, name); pattern != "" && !wanted {
			continue
		}
		if price == 0 || !s.fits(&t, cpu, memory) || int(row[1])&7 == 0 { // offered in one of the three zones
			continue
		}
		cost := micros(price)
		if above := cpu + 0.02 - t.BaselineVCPUs; t.Burstable && above > 0 {
			cost += micros(above * 0.05)
		}
		if best == "" || cost < lowest || cost == lowest && before(name, best) {
			best, lowest = name, cost
		}
	}
	gp3 := s.region.GP3USD
	if gp3 == 0 {
		gp3 = 0.08
	}
	usd := float64(lowest+micros(gp3*10/730)) / 1e6
	c := choice{Type: best, Capacity: "on-demand", USD: strconv.FormatFloat(usd, 'f', -1, 64)}
	if spot {
		c.Capacity = "spot"
	}
	return c
}

// micros are millionths of a dollar: prices are compared as such.
func micros(usd float64) int64 { return int64(math.Round(usd * 1e6)) }

func (s *search) fits(t *instancetype.InstanceType, cpu, memory float64) bool {
	if t.Architecture != instancetype.AMD64 || t.BareMetal || t.Hypervisor != "nitro" || t.IPv4PerENI == 1 {
		return false
	}
	if strings.Contains(t.Name, "-flex.") && cpu+0.02 > 0.4*float64(t.VCPUs) {
		return false
	}
	return float64(t.VCPUs) >= cpu && float64(t.PodMemoryMiB()) >= memory
}

// before orders types of the same price.
func before(a, b string) bool {
	if ga, gb := generation(a), generation(b); ga != gb {
		return ga > gb
	}
	return a < b
}

func generation(name string) (n int) {
	_, _ = fmt.Sscanf(strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz-"), "%d", &n)
	return n
}
