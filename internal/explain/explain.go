package explain

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// Output is a format.
type Output string

const (
	Table Output = "table"
	JSON  Output = "json"
)

// Options are the command's flags.
type Options struct {
	Files  []string // "-" is the standard input
	Output Output

	// Region falls back to the configuration's, then to EnvRegion.
	Region    string
	EnvRegion string

	Zones         []string // with a subnet; empty means all
	Types         []string // to say more about
	ConfigFile    string
	CatalogueFile string
	Candidates    int // besides the chosen one
}

// Report is the answer, and its JSON the format of -o json, which is kept
// compatible: fields may be added.
type Report struct {
	Region string      `json:"region"`
	Pods   []PodReport `json:"pods"`
}

// PodReport is the answer for one pod.
type PodReport struct {
	Source Source `json:"source"`

	// Request is what the pod needs. Defaulted names the resources that it
	// does not request and for which a minimum stands.
	Request   v1beta1.Requirements `json:"request"`
	Defaulted []string             `json:"defaulted,omitempty"`

	// Chosen is what would be launched, Candidates what would be tried next.
	// Chosen is nil if nothing fits; Error then says why.
	Chosen     *Candidate  `json:"chosen,omitempty"`
	Candidates []Candidate `json:"candidates,omitempty"`
	Error      string      `json:"error,omitempty"`

	// Considered types of the region: Fitting of them fit, for the others
	// RuledOut says by what.
	Considered int                     `json:"considered"`
	Fitting    int                     `json:"fitting"`
	RuledOut   []instancetype.RuledOut `json:"ruledOut,omitempty"`

	// Types answers Options.Types.
	Types []TypeReport `json:"types,omitempty"`
}

// Candidate is an instance type bought one way, in all zones that have it at
// the same price.
type Candidate struct {
	InstanceType string               `json:"instanceType"`
	CapacityType v1beta1.CapacityType `json:"capacityType"`
	Architecture string               `json:"architecture"`
	Zones        []string             `json:"zones"`
	VCPUs        int32                `json:"vcpus"`
	MemoryMiB    int64                `json:"memoryMiB"`
	PodMemoryMiB int64                `json:"podMemoryMiB"` // what of it the pod may request
	GPUs         int32                `json:"gpus,omitempty"`
	HourlyUSD    float64              `json:"hourlyUSD"`
	Cost         instancetype.Cost    `json:"cost"`
}

// TypeReport is the answer about one type that was asked about.
type TypeReport struct {
	instancetype.Verdict
	Offers []Candidate `json:"offers,omitempty"` // if it fits
	Error  string      `json:"error,omitempty"`  // if there is no such type
}

// ErrNoFit is returned by Run, after the report was written, if a pod cannot be
// given an instance.
var ErrNoFit = errors.New("not every pod can be given an instance")

// Run reads the manifests and writes the report to out. in is read for the
// file "-".
func Run(ctx context.Context, o Options, in io.Reader, out io.Writer) error {
	write, ok := map[Output]func(io.Writer, Report, settings) error{JSON: writeJSON, Table: writeTable}[cmp.Or(o.Output, Table)]
	if !ok {
		return fmt.Errorf("output format %q is unknown: it is %s or %s", o.Output, Table, JSON)
	}
	s, err := o.settings()
	if err != nil {
		return err
	}
	pods, err := readFiles(o.Files, in)
	if err != nil {
		return err
	}
	report := Report{Region: s.region.Name}
	failed := false
	for _, p := range pods {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := s.explain(p)
		failed = failed || r.Error != ""
		report.Pods = append(report.Pods, r)
	}
	if err := write(out, report, s); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if failed {
		return ErrNoFit
	}
	return nil
}

// settings is what the options amount to.
type settings struct {
	catalogue  *instancetype.Catalogue
	region     *instancetype.Region
	defaults   instancetype.Defaults
	zones      []string
	types      []string
	candidates int
	privateIP  bool
}

func (o Options) settings() (settings, error) {
	s := settings{zones: o.Zones, types: o.Types, candidates: max(0, o.Candidates)}
	var configured string
	if o.ConfigFile != "" {
		c, err := config.Load(o.ConfigFile)
		if err != nil {
			return s, err
		}
		configured = c.Cloud.AWS.Region
		s.privateIP = c.Cells.PrivateIPOnly
		s.defaults = c.InstanceDefaults()
	}
	var err error
	if o.CatalogueFile != "" {
		s.catalogue, err = instancetype.Load(o.CatalogueFile)
	} else {
		s.catalogue, err = instancetype.Embedded()
	}
	if err != nil {
		return s, err
	}
	s.region, err = s.catalogue.Region(cmp.Or(o.Region, configured, o.EnvRegion, defaultRegion))
	if err != nil {
		return s, err
	}
	for _, z := range o.Zones {
		if len(s.region.Zones) > 0 && !slices.Contains(s.region.Zones, z) {
			return s, fmt.Errorf("%s has no zone %q: its zones are %v", s.region.Name, z, s.region.Zones)
		}
	}
	return s, nil
}

// explain never fails: what is wrong with a pod is part of the answer.
func (s settings) explain(p sourcedPod) PodReport {
	r := PodReport{Source: p.Source}
	req, err := s.defaults.Requirements(p.pod)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Request = req
	requested := instancetype.EffectiveRequests(p.pod)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q := requested[name]; q.IsZero() {
			r.Defaulted = append(r.Defaulted, string(name))
		}
	}
	opts := instancetype.Options{Zones: s.zones, DefaultVolumeGiB: s.defaults.VolumeGiB, PublicIPv4: !s.private(p.pod)}
	result := s.region.Offerings(req, opts)
	if err := result.Err(); err != nil {
		r.Error = err.Error()
	}
	all := s.candidatesOf(result.Offerings)
	if len(all) > 0 {
		r.Chosen = &all[0]
		r.Candidates = all[1:min(len(all), 1+s.candidates)]
	}
	r.Considered, r.RuledOut = result.Considered, result.RuledOut
	r.Fitting = result.Considered
	for _, o := range result.RuledOut {
		r.Fitting -= o.Count
	}
	for _, name := range s.types {
		t := TypeReport{Verdict: instancetype.Verdict{InstanceType: name}}
		if v, err := s.region.Explain(name, req, opts); err != nil {
			t.Error = err.Error()
		} else {
			t.Verdict = v
		}
		for _, c := range all {
			if c.InstanceType == name {
				t.Offers = append(t.Offers, c)
			}
		}
		r.Types = append(r.Types, t)
	}
	return r
}

// private says whether the pod's cell gets no public address. A bad value is
// refused elsewhere, when the pod is created.
func (s settings) private(pod *corev1.Pod) bool {
	if v, err := strconv.ParseBool(pod.Annotations["pod.elotl.co/private-ip-only"]); err == nil {
		return v
	}
	return s.privateIP
}

// candidatesOf joins the zones of offerings that follow each other.
func (s settings) candidatesOf(offerings []instancetype.Offering) []Candidate {
	var all []Candidate
	for _, o := range offerings {
		if n := len(all); n > 0 && all[n-1].InstanceType == o.InstanceType && all[n-1].CapacityType == o.CapacityType {
			all[n-1].Zones = append(all[n-1].Zones, o.Zone)
			continue
		}
		t, _ := s.catalogue.Type(o.InstanceType)
		all = append(all, Candidate{
			InstanceType: o.InstanceType, CapacityType: o.CapacityType, Architecture: o.Architecture, Zones: []string{o.Zone},
			VCPUs: o.VCPUs, MemoryMiB: o.MemoryMiB, PodMemoryMiB: t.PodMemoryMiB(), GPUs: o.GPUs,
			HourlyUSD: o.HourlyUSD, Cost: o.Cost,
		})
	}
	return all
}

func writeJSON(out io.Writer, r Report, _ settings) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
