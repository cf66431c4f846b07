package instancetype

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
)

var cases = flag.Int("cases", 5000, "number of random pods in TestChoiceIsOptimal")

// TestChoiceIsOptimal compares the choice for random pods, regions, zones and
// shortages with a brute-force search that shares no code with it: own reading
// of the data, own arithmetic of requests, memory and prices, own order.
//
//	go test ./internal/instancetype -run TestChoiceIsOptimal -args -cases 100000
func TestChoiceIsOptimal(t *testing.T) {
	world := newWorld(t)
	catalogue, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	n := *cases
	if testing.Short() {
		n = min(n, 500)
	}
	var chosen sync.Map
	var empty atomic.Int64
	t.Run("group", func(t *testing.T) {
		for shard := range 4 {
			t.Run(strconv.Itoa(shard), func(t *testing.T) {
				t.Parallel()
				for i := shard; i < n; i += 4 {
					if first := compareChoice(t, world, catalogue, i); first != "" {
						chosen.Store(first, true)
					} else {
						empty.Add(1)
					}
				}
			})
		}
	})
	// A test that only ever chose t3.nano would prove little.
	different := 0
	chosen.Range(func(any, any) bool { different++; return true })
	if n >= 5000 && (different < 100 || empty.Load() == 0 || empty.Load() > int64(n/2)) {
		t.Errorf("%d different types chosen, %d of %d pods fit nowhere: the random pods are too much alike", different, empty.Load(), n)
	}
}

// compareChoice returns the type chosen for the case, "" if none fits.
func compareChoice(t *testing.T, world *world, catalogue *Catalogue, i int) string {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	rng := rand.New(rand.NewPCG(7, uint64(i)))
	p := randomPod(rng, world)
	regionName := pick(rng, "us-west-2", "us-east-1", "eu-central-1", "ap-southeast-1", "us-gov-west-1", "il-central-1")
	region, err := catalogue.Region(regionName)
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Now: now, PublicIPv4: rng.IntN(2) == 0, Unavailable: &Unavailable{}}
	if len(region.Zones) > 0 && rng.IntN(2) == 0 {
		opts.Zones = []string{region.Zones[rng.IntN(len(region.Zones))], region.Zones[0]}
	}

	defaults, images := randomDefaults(rng, region.Zones)
	contradiction := p.under(defaults, images)

	want := world.search(p, regionName, opts.Zones, opts.PublicIPv4, nil)
	// Refuse the cheapest ones, as happens in life, some of them long ago.
	refused := map[string]bool{}
	for range rng.IntN(20) {
		if len(want) == 0 {
			break
		}
		k := want[rng.IntN(min(len(want), 1+rng.IntN(30)))]
		key := Key{InstanceType: k.Type, Zone: k.Zone, CapacityType: v1beta1.CapacityType(k.Capacity)}
		if rng.IntN(5) == 0 {
			opts.Unavailable.Mark(key, now.Add(-UnavailableFor))
			continue
		}
		opts.Unavailable.Mark(key, now.Add(-time.Duration(rng.IntN(170))*time.Second))
		refused[k.id()] = true
	}
	if len(refused) > 0 {
		want = world.search(p, regionName, opts.Zones, opts.PublicIPv4, refused)
	}

	req, err := defaults.Requirements(p.pod)
	if (err != nil) != contradiction {
		t.Fatalf("case %d: %s in %s: %v", i, p, defaults.Zone, err)
	}
	if contradiction {
		return ""
	}
	if len(req.Architectures) > 1 {
		defaults.ForImages(&req, p.pod, images)
	}
	result := region.Offerings(req, opts)
	var got []found
	types := map[string]bool{}
	for _, o := range result.Offerings {
		got = append(got, found{o.InstanceType, o.Zone, string(o.CapacityType), int64(math.Round(o.HourlyUSD * 1e6))})
		types[o.InstanceType] = true
	}
	if !slices.Equal(want, got) {
		t.Fatalf("case %d: %s\n%s: -brute force +Offerings\n%.4000s", i, p, regionName, cmp.Diff(want, got))
	}
	counted := len(types)
	for _, r := range result.RuledOut {
		counted += r.Count
	}
	if counted != result.Considered {
		t.Fatalf("case %d: %s: %d types considered, %d fit or are ruled out", i, p, result.Considered, counted)
	}
	if (result.Err() == nil) != (len(want) > 0) {
		t.Fatalf("case %d: %s: %d offerings, error %v", i, p, len(want), result.Err())
	}

	opts.Limit = 1 + rng.IntN(10)
	limited := region.Offerings(req, opts)
	if first := result.Offerings[:min(opts.Limit, len(want))]; !slices.Equal(first, limited.Offerings) {
		t.Fatalf("case %d: %s: with a limit: -want +got\n%s", i, p, cmp.Diff(first, limited.Offerings))
	}
	if len(want) == 0 {
		return ""
	}
	return want[0].Type
}

// found is an offering as the brute force sees it; Cost in millionths of a USD.
type found struct {
	Type, Zone, Capacity string
	Cost                 int64
}

func (f found) id() string { return f.Type + "/" + f.Zone + "/" + f.Capacity }

// world is the data, read without the package's code.
type world struct {
	types   map[string]rawType
	regions map[string]struct {
		Zones []string             `json:"zones"`
		Types map[string][]float64 `json:"types"`
	}
	names []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	read := func(name string, into any) {
		f, err := embedded.Open("data/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewDecoder(z).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{}
	w.regions = map[string]struct {
		Zones []string             `json:"zones"`
		Types map[string][]float64 `json:"types"`
	}{}
	read("types.json.gz", &w.types)
	for _, r := range []string{"us-west-2", "us-east-1", "eu-central-1", "ap-southeast-1", "us-gov-west-1", "il-central-1"} {
		v := w.regions[r]
		read("regions/"+r+".json.gz", &v)
		w.regions[r] = v
	}
	for n := range w.types {
		w.names = append(w.names, n)
	}
	sort.Strings(w.names)
	return w
}

// rawType is a row of types.json.
type rawType struct {
	VCPUs         int64   `json:"vcpus"`
	MemoryMiB     int64   `json:"memoryMiB"`
	Arch          string  `json:"arch"`
	Hypervisor    string  `json:"hypervisor"`
	BareMetal     bool    `json:"bareMetal"`
	Burstable     bool    `json:"burstable"`
	BaselineVCPUs float64 `json:"baselineVCPUs"`
	IPv4PerENI    int     `json:"ipv4PerENI"`
	OnDemand      bool    `json:"onDemand"`
	Spot          bool    `json:"spot"`
	ReferenceUSD  float64 `json:"referenceUSD"`
	GPU           struct {
		Count        int     `json:"count"`
		Name         string  `json:"name"`
		Manufacturer string  `json:"manufacturer"`
		Fraction     float64 `json:"fraction"`
	} `json:"gpu"`
}

// randomized is a pod and what the brute force needs to know of it.
type randomized struct {
	pod        *corev1.Pod
	cpu        int64 // millis
	bytes      int64
	gpus       float64
	models     []string
	archs      []string
	globs      []string
	notTypes   []string
	onlyZones  []string
	notZones   []string
	capacities []string
	volumeGiB  float64
}

func (r randomized) String() string {
	raw, _ := json.Marshal(r.pod)
	return string(raw)
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func randomPod(rng *rand.Rand, w *world) randomized {
	r := randomized{pod: &corev1.Pod{}, capacities: []string{"on-demand"}, volumeGiB: 10}
	pod := r.pod
	pod.Annotations = map[string]string{}
	always := corev1.ContainerRestartPolicyAlways

	// Requests: app containers, then init steps and sidecars in order.
	newContainer := func() (corev1.Container, int64, int64) {
		cpu := int64(0)
		mem := int64(0)
		c := corev1.Container{}
		list := corev1.ResourceList{}
		if rng.IntN(5) > 0 {
			cpu = int64(math.Exp(rng.Float64()*math.Log(120000))) + 1
			if rng.IntN(3) == 0 {
				cpu = 1000 * int64(1+rng.IntN(16))
			}
			list[corev1.ResourceCPU] = *resource.NewMilliQuantity(cpu, resource.DecimalSI)
		}
		if rng.IntN(5) > 0 {
			mem = int64(math.Exp(rng.Float64()*math.Log(600000))*(1<<20)) + 1
			list[corev1.ResourceMemory] = *resource.NewQuantity(mem, resource.BinarySI)
		}
		if rng.IntN(2) == 0 {
			c.Resources.Requests = list
		} else {
			c.Resources.Limits = list
		}
		return c, cpu, mem
	}
	var sumCPU, sumMem, sideCPU, sideMem, peakCPU, peakMem int64
	for range 1 + rng.IntN(2) {
		c, cpu, mem := newContainer()
		sumCPU, sumMem = sumCPU+cpu, sumMem+mem
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
	for range rng.IntN(3) {
		c, cpu, mem := newContainer()
		if rng.IntN(2) == 0 {
			c.RestartPolicy = &always
			sideCPU, sideMem = sideCPU+cpu, sideMem+mem
			peakCPU, peakMem = max(peakCPU, sideCPU), max(peakMem, sideMem)
		} else {
			peakCPU, peakMem = max(peakCPU, sideCPU+cpu), max(peakMem, sideMem+mem)
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	r.cpu, r.bytes = max(sumCPU+sideCPU, peakCPU), max(sumMem+sideMem, peakMem)
	if rng.IntN(10) == 0 {
		pod.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("120Mi")}
		r.cpu, r.bytes = r.cpu+250, r.bytes+120<<20
	}
	if r.cpu == 0 {
		r.cpu = 50
	}
	if r.bytes == 0 {
		r.bytes = 128 << 20
	}
	if rng.IntN(12) == 0 {
		r.gpus = float64(pick(rng, 1, 1, 2, 4, 8))
		limits := corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(int64(r.gpus), resource.DecimalSI)}
		for k, v := range pod.Spec.Containers[0].Resources.Limits {
			limits[k] = v
		}
		pod.Spec.Containers[0].Resources.Limits = limits
		if rng.IntN(2) == 0 {
			r.models = []string{pick(rng, "T4", "L4*", "a10g", "V100", "*", "H?00")}
			pod.Annotations["pod.elotl.co/gpu-type"] = r.models[0]
		}
	}

	switch rng.IntN(8) {
	case 0:
		r.archs = []string{"arm64"}
		pod.Spec.NodeSelector = map[string]string{"kubernetes.io/arch": "arm64", "disk": "ssd"}
	case 1:
		r.archs = []string{"amd64", "arm64"}
		pod.Spec.Affinity = affinity(corev1.NodeSelectorRequirement{Key: "kubernetes.io/arch", Operator: corev1.NodeSelectorOpIn, Values: []string{"arm64", "amd64"}})
	}
	switch rng.IntN(8) {
	case 0:
		r.globs = []string{pick(rng, w.names...)}
	case 1:
		r.globs = []string{pick(rng, "c6*", "m?i.*", "t3.*", "t*", "*.large", "x2*", "*.metal", "g*.*"), pick(rng, w.names...)}
	}
	if len(r.globs) > 0 {
		value := strings.Join(r.globs, " , ")
		if rng.IntN(4) == 0 {
			r.notTypes = []string{pick(rng, "*.xlarge", "c6i.*", "t3.micro")}
			value += ",!" + r.notTypes[0]
		}
		pod.Annotations["pod.elotl.co/instance-type"] = value
	}
	switch rng.IntN(8) {
	case 0:
		r.onlyZones = []string{pick(rng, "us-west-2b", "us-east-1a", "eu-central-1c", "us-gov-west-1a")}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector["topology.kubernetes.io/zone"] = r.onlyZones[0]
	case 1:
		if pod.Spec.Affinity == nil {
			r.notZones = []string{"us-west-2a", "us-east-1b", "ap-southeast-1a"}
			pod.Spec.Affinity = affinity(corev1.NodeSelectorRequirement{Key: "topology.kubernetes.io/zone", Operator: corev1.NodeSelectorOpNotIn, Values: r.notZones})
		}
	}
	switch rng.IntN(4) {
	case 0:
		r.capacities = []string{"spot"}
		pod.Annotations["pod.elotl.co/launch-type"] = "spot"
	case 1:
		r.capacities = []string{"spot", "on-demand"}
		pod.Annotations["pod.elotl.co/launch-type"] = "spot-preferred"
	case 2:
		pod.Annotations["pod.elotl.co/launch-type"] = "on-demand"
	}
	if rng.IntN(6) == 0 {
		n := 1 + rng.IntN(500)
		r.volumeGiB = float64(n)
		pod.Annotations["pod.elotl.co/volume-size"] = pick(rng, fmt.Sprint(n), fmt.Sprintf("%dGi", n), fmt.Sprintf("%dMi", n*1024-7))
	}
	return r
}

// randomDefaults are an operator's choices, and what a pod's images are made
// for, none if that is not known.
func randomDefaults(rng *rand.Rand, zones []string) (d Defaults, images []string) {
	d.Architectures = pick(rng, nil, nil, []string{"amd64"}, []string{"amd64", "arm64"}, []string{"arm64", "amd64"}, []string{"arm64"})
	images = pick(rng, nil, []string{"amd64"}, []string{"arm64"}, []string{"arm64", "amd64"})
	if len(zones) > 0 && rng.IntN(6) == 0 {
		d.Zone = pick(rng, zones...)
	}
	if rng.IntN(4) == 0 {
		d.CapacityTypes = []v1beta1.CapacityType{"spot", "on-demand"}
	}
	return d, images
}

// under applies an operator's choices to what the brute force knows of the pod,
// and reports a contradiction with what the pod demands.
func (r *randomized) under(d Defaults, images []string) (contradiction bool) {
	if _, ok := r.pod.Annotations["pod.elotl.co/launch-type"]; !ok && d.CapacityTypes != nil {
		r.capacities = []string{"spot", "on-demand"}
	}
	ownWord := len(r.archs) > 0
	if named := len(r.globs) > 0; !ownWord && !named { // globs hold a whole name always
		r.archs = d.Architectures
	}
	if len(r.archs) > 1 {
		var fit []string
		for _, a := range r.archs {
			if slices.Contains(images, a) {
				fit = append(fit, a)
			}
		}
		switch {
		case len(fit) > 0:
			r.archs = fit
		case !ownWord:
			r.archs = r.archs[:1]
		}
	}
	if d.Zone == "" {
		return false
	}
	if len(r.onlyZones) > 0 && r.onlyZones[0] != d.Zone || slices.Contains(r.notZones, d.Zone) {
		return true
	}
	r.onlyZones = []string{d.Zone}
	return false
}

func affinity(e corev1.NodeSelectorRequirement) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{e}}},
		},
	}}
}

// search looks at every type, zone and capacity type.
func (w *world) search(p randomized, region string, subnetZones []string, public bool, refused map[string]bool) []found {
	var all []found
	data := w.regions[region]
	zones := data.Zones
	if len(zones) == 0 {
		zones = []string{""}
		if len(p.onlyZones) > 0 {
			zones = p.onlyZones
		}
	}
	for name, known := range data.Types {
		row := [3]float64{}
		copy(row[:], known)
		typ := w.types[name]
		wanted, exact := w.wants(p, name)
		if len(p.globs) > 0 && !wanted {
			continue
		}
		arch := typ.Arch
		switch {
		case len(p.archs) > 0:
			if !slices.Contains(p.archs, arch) {
				continue
			}
		case arch != "amd64" && !(arch == "arm64" && exact):
			continue
		}
		if !w.usual(p, typ, name, wanted) || !holds(p, typ, name, wanted) {
			continue
		}
		for _, capacity := range p.capacities {
			price := row[0]
			if capacity == "spot" {
				if !typ.Spot {
					continue
				}
				if row[2] > 0 {
					price = row[2]
				}
			} else if !typ.OnDemand {
				continue
			}
			if price == 0 && wanted {
				price = typ.ReferenceUSD
			}
			if price == 0 {
				continue
			}
			cost := toMicros(price) + toMicros(surplus(p, typ, name))
			perGiB := 0.08
			if region == "eu-central-1" {
				perGiB = 0.0952
			}
			cost += toMicros(perGiB * p.volumeGiB / 730)
			if public {
				cost += 5000
			}
			for i, z := range zones {
				offered := len(data.Zones) == 0 || int(row[1])>>i&1 == 1
				if !offered || len(subnetZones) > 0 && !slices.Contains(subnetZones, z) ||
					len(p.onlyZones) > 0 && !slices.Contains(p.onlyZones, z) || slices.Contains(p.notZones, z) {
					continue
				}
				f := found{name, z, capacity, cost}
				if !refused[f.id()] {
					all = append(all, f)
				}
			}
		}
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if a.Cost != b.Cost {
			return a.Cost < b.Cost
		}
		if a.Capacity != b.Capacity {
			return a.Capacity == p.capacities[0]
		}
		if x, y := firstNumber(a.Type), firstNumber(b.Type); x != y {
			return x > y
		}
		if a.Type != b.Type {
			return a.Type < b.Type
		}
		if x, y := slices.Index(subnetZones, a.Zone), slices.Index(subnetZones, b.Zone); x != y {
			return x < y
		}
		return a.Zone < b.Zone
	})
	return all
}

// wants says whether the annotation names the type, and whether in full.
func (w *world) wants(p randomized, name string) (wanted, exact bool) {
	for _, g := range p.notTypes {
		if ok, _ := path.Match(g, name); ok {
			return false, false
		}
	}
	for _, g := range p.globs {
		ok, _ := path.Match(g, name)
		wanted = wanted || ok
		exact = exact || g == name
	}
	return wanted, exact
}

// usual leaves out what is only used when asked for.
func (w *world) usual(p randomized, typ rawType, name string, wanted bool) bool {
	if typ.IPv4PerENI == 1 {
		return false
	}
	if wanted {
		return true
	}
	if typ.BareMetal {
		return false
	}
	if typ.Hypervisor != "nitro" && (len(p.models) == 0 || gpusOf(p, typ, true) == 0) {
		return false
	}
	if strings.Contains(name, "-flex.") {
		return float64(p.cpu)+20 <= 0.4*1000*float64(typ.VCPUs)
	}
	return true
}

// gpusOf counts the GPUs of an accepted model.
func gpusOf(p randomized, typ rawType, wanted bool) float64 {
	if typ.GPU.Manufacturer != "NVIDIA" {
		return 0
	}
	if typ.GPU.Fraction != 0 && !wanted {
		return 0
	}
	for _, m := range p.models {
		if ok, _ := path.Match(strings.ToUpper(m), strings.ToUpper(typ.GPU.Name)); !ok {
			return 0
		}
	}
	return float64(typ.GPU.Count)
}

// holds says whether the pod has room.
func holds(p randomized, typ rawType, name string, wanted bool) bool {
	mib := typ.MemoryMiB
	lost := int64(64 + 160)
	for rest, rate := mib, int64(53); rest > 0; rest, rate = rest-16384, 39 {
		if rate == 39 {
			lost += rest * rate / 1000
			break
		}
		lost += min(rest, 16384) * rate / 1000
	}
	if mib >= 2048 {
		lost += 80
	}
	if slices.Contains([]string{"a1", "c5", "c5d", "c5n"}, strings.Split(name, ".")[0]) {
		lost += mib * 15 / 1000
	}
	return p.cpu <= typ.VCPUs*1000 &&
		float64(p.bytes) <= float64(mib-lost)*(1<<20) &&
		gpusOf(p, typ, wanted) >= p.gpus
}

func surplus(p randomized, typ rawType, name string) float64 {
	if !typ.Burstable {
		return 0
	}
	rate := 0.05
	if name[:3] == "t4g" {
		rate = 0.04
	}
	return max(0, (float64(p.cpu+20)/1000-typ.BaselineVCPUs)*rate)
}

func toMicros(usd float64) int64 { return int64(math.Floor(usd*1e6 + 0.5)) }

func firstNumber(name string) int {
	n, seen := 0, false
	for _, c := range name {
		if c >= '0' && c <= '9' {
			n, seen = n*10+int(c-'0'), true
		} else if seen {
			break
		}
	}
	return n
}
