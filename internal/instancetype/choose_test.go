package instancetype

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func usWest2(t testing.TB) *Region {
	t.Helper()
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Region("us-west-2")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func needs(cpu, memory string, edit ...func(*v1beta1.Requirements)) v1beta1.Requirements {
	req := v1beta1.Requirements{CPU: resource.MustParse(cpu), Memory: resource.MustParse(memory)}
	for _, e := range edit {
		e(&req)
	}
	return req
}

func TestOfferings(t *testing.T) {
	types := func(names ...string) func(*v1beta1.Requirements) {
		return func(r *v1beta1.Requirements) { r.InstanceTypes = names }
	}
	cases := map[string]struct {
		reason string
		req    v1beta1.Requirements
		opts   Options
		want   []string // type, zone, capacity type, price of the first offerings
	}{
		"smallest": {
			reason: "a small pod gets the cheapest burstable type below its baseline",
			req:    needs("50m", "128Mi"),
			want:   []string{"t3a.nano us-west-2a on-demand 0.005796", "t3a.nano us-west-2b on-demand 0.005796"},
		},
		"zones of the subnets": {
			reason: "only zones with a subnet count",
			req:    needs("50m", "128Mi"),
			opts:   Options{Zones: []string{"us-west-2c"}},
			want:   []string{"t3a.nano us-west-2c on-demand 0.005796", "t3.nano us-west-2c on-demand 0.006296"},
		},
		"preferred zone": {
			reason: "of equal price the zone that is named first",
			req:    needs("50m", "128Mi"),
			opts:   Options{Zones: []string{"us-west-2c", "us-west-2a"}},
			want:   []string{"t3a.nano us-west-2c on-demand", "t3a.nano us-west-2a on-demand", "t3.nano us-west-2c on-demand"},
		},
		"credits": {
			reason: "a whole vCPU all day is dearer on t3 than on a type that has one",
			req:    needs("1", "3Gi"),
			want:   []string{"m7a.medium us-west-2a on-demand 0.059056"},
		},
		"few credits": {
			reason: "surplus of 70 thousandths (250m and the cell's 20m above 200m) is cheaper than the next type",
			req:    needs("250m", "700Mi"),
			want:   []string{"t3a.micro us-west-2a on-demand 0.013996"},
		},
		"whole vCPUs": {
			reason: "a request of exactly the type's vCPUs fits; the cell's own share does not double the machine",
			req:    needs("2", "2Gi"),
			want:   []string{"c6a.large us-west-2a on-demand"},
		},
		"brochure memory": {
			reason: "4 GiB do not fit into a type of 4 GiB",
			req:    needs("1", "4Gi", types("t3.medium", "m7a.medium", "t3.large")),
			want:   []string{"t3.large us-west-2a on-demand"},
		},
		"arm64": {
			reason: "named architectures only",
			req:    needs("50m", "128Mi", func(r *v1beta1.Requirements) { r.Architectures = []string{"arm64"} }),
			want:   []string{"t4g.nano us-west-2a on-demand 0.005296"},
		},
		"both architectures": {
			reason: "the cheaper one",
			req:    needs("50m", "128Mi", func(r *v1beta1.Requirements) { r.Architectures = []string{"amd64", "arm64"} }),
			opts:   Options{Zones: []string{"us-west-2a"}},
			want:   []string{"t4g.nano us-west-2a on-demand 0.005296", "t3a.nano us-west-2a on-demand 0.005796"},
		},
		"arm64 by name": {
			reason: "a type named in full needs no architecture beside it",
			req:    needs("50m", "128Mi", types("t4g.micro")),
			want:   []string{"t4g.micro us-west-2a on-demand"},
		},
		"arm64 by glob": {
			reason: "a glob does not choose the architecture",
			req:    needs("50m", "128Mi", types("t4*", "t3.large")),
			want:   []string{"t3.large us-west-2a on-demand"},
		},
		"spot": {
			reason: "at the spot price",
			req:    needs("2", "4Gi", func(r *v1beta1.Requirements) { r.CapacityTypes = []v1beta1.CapacityType{"spot"} }),
			want:   []string{"m5a.large us-west-2a spot 0.032056"},
		},
		"spot with fallback": {
			reason: "where both are accepted spot comes first by its price, on-demand is in the list",
			req: needs("2", "4Gi", types("m5a.large"), func(r *v1beta1.Requirements) {
				r.CapacityTypes = []v1beta1.CapacityType{"spot", "on-demand"}
			}),
			opts: Options{Zones: []string{"us-west-2b"}},
			want: []string{"m5a.large us-west-2b spot 0.032056", "m5a.large us-west-2b on-demand 0.087096"},
		},
		"spot preferred": {
			reason: "not at any price: small on-demand types come before spot of large ones",
			req: needs("50m", "128Mi", types("t3a.nano", "m5a.large"), func(r *v1beta1.Requirements) {
				r.CapacityTypes = []v1beta1.CapacityType{"spot", "on-demand"}
			}),
			opts: Options{Zones: []string{"us-west-2b"}},
			want: []string{"t3a.nano us-west-2b spot", "t3a.nano us-west-2b on-demand 0.005796", "m5a.large us-west-2b spot"},
		},
		"GPU": {
			reason: "an NVIDIA one; slices and AMD's are left out",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.GPUs = 1 }),
			want:   []string{"g4dn.xlarge us-west-2a on-demand 0.527096"},
		},
		"GPU model": {
			reason: "models are compared without case, as globs",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.GPUs, r.GPUModels = 1, []string{"l4"} }),
			want:   []string{"g6.xlarge us-west-2a on-demand"},
		},
		"GPU slice by name": {
			reason: "who names the type gets the slice as one GPU",
			req:    needs("1", "1Gi", types("g6f.large"), func(r *v1beta1.Requirements) { r.GPUs = 1 }),
			want:   []string{"g6f.large"},
		},
		"bare metal by name": {
			reason: "left out unless asked for",
			req:    needs("1", "1Gi", types("c5.metal")),
			want:   []string{"c5.metal us-west-2a on-demand"},
		},
		"Xen by name": {
			reason: "left out unless asked for",
			req:    needs("1", "1Gi", types("t2.small")),
			want:   []string{"t2.small us-west-2a on-demand"},
		},
		"price unknown": {
			reason: "a type named by the pod is launched at the price of us-east-1, marked as an estimate",
			req:    needs("1", "1Gi", types("m8i.large")),
			want:   []string{"m8i.large us-west-2a on-demand 0.106936 estimated"},
		},
		"volume and address": {
			reason: "both are on the bill",
			req:    needs("50m", "128Mi", func(r *v1beta1.Requirements) { r.VolumeGiB = 73 }),
			opts:   Options{PublicIPv4: true},
			want:   []string{"t3a.nano us-west-2a on-demand 0.0177"},
		},
		"excluded": {
			reason: "an exclusion alone leaves all the others, and asks for none of them",
			req:    needs("50m", "128Mi", types("!t3a.*")),
			want:   []string{"t3.nano us-west-2a on-demand"},
		},
	}
	region := usWest2(t)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			result := region.Offerings(c.req, c.opts)
			if err := result.Err(); err != nil {
				t.Fatalf("%s: %v", c.reason, err)
			}
			for i, want := range c.want {
				o := result.Offerings[i]
				got := o.InstanceType + " " + o.Zone + " " + string(o.CapacityType) + " " + o.Price()
				if o.Cost.Estimated {
					got += " estimated"
				}
				if !strings.HasPrefix(got, want) {
					t.Errorf("%s: offering %d is %q, want %q", c.reason, i, got, want)
				}
			}
		})
	}
}

func TestNoFit(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	refused := func(keys ...Key) *Unavailable {
		u := &Unavailable{}
		for i, k := range keys {
			u.Mark(k, now.Add(time.Duration(-10*i)*time.Second))
		}
		return u
	}
	cases := map[string]struct {
		reason  string
		req     v1beta1.Requirements
		opts    Options
		want    []string
		retryAt time.Time
	}{
		"too many CPUs": {
			reason: "what was asked for, and the largest there is",
			req:    needs("900", "4Ti"),
			want:   []string{"no instance type in us-west-2", "900 vCPUs and 4 TiB", "at most 896: u7i"},
		},
		"too much memory": {
			reason: "the other dimension",
			req:    needs("500m", "40Ti"),
			want:   []string{"0.5 vCPUs and 40 TiB", "TiB: u7in-32tb"},
		},
		"unknown type": {
			reason: "what else could be meant",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.InstanceTypes = []string{"m9z.large"} }),
			want:   []string{`instance type "m9z.large" is unknown: did you mean m9g.large`},
		},
		"type of another region": {
			reason: "it exists, but not here",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.InstanceTypes = []string{"p2.xlarge", "c99.*"} }),
			want:   []string{`"p2.xlarge" is not offered in us-west-2`, `no instance type in us-west-2 matches "c99.*"`},
		},
		"type too small": {
			reason: "the one that was asked for, not the 1330 others",
			req:    needs("4", "1Gi", func(r *v1beta1.Requirements) { r.InstanceTypes = []string{"t3.nano"} }),
			want:   []string{"1: fewer than 4 vCPUs (at most 2: t3.nano)"},
		},
		"wrong architecture": {
			reason: "when nothing else is in the way it is said after all",
			req: needs("1", "1Gi", func(r *v1beta1.Requirements) {
				r.InstanceTypes, r.Architectures = []string{"t3.nano"}, []string{"arm64"}
			}),
			want: []string{"1: not arm64"},
		},
		"unknown GPU": {
			reason: "the models there are",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.GPUs, r.GPUModels = 1, []string{"X9"} }),
			want:   []string{"no NVIDIA GPU of model X9", "A10G", "T4"},
		},
		"too many GPUs": {
			reason: "the most there are",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.GPUs = 17 }),
			want:   []string{"1 vCPU and 1 GiB of memory and 17 GPUs", "fewer than 17 NVIDIA GPUs (at most 8"},
		},
		"zone": {
			reason: "the pod's zone has no subnet",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.Zones = []string{"us-west-2d"} }),
			opts:   Options{Zones: []string{"us-west-2a"}},
			want:   []string{"not offered in any zone that the pod accepts"},
		},
		"refused": {
			reason: "time alone helps, and when is known",
			req:    needs("1", "1Gi", func(r *v1beta1.Requirements) { r.InstanceTypes = []string{"t3.small"} }),
			opts: Options{Now: now, Zones: []string{"us-west-2a", "us-west-2b"}, Unavailable: refused(
				Key{"t3.small", "us-west-2a", "on-demand"}, Key{"t3.small", "us-west-2b", "on-demand"},
				Key{"t3.small", "us-west-2c", "on-demand"}, Key{"t3.small", "us-west-2a", "spot"}, Key{"c5.large", "us-west-2a", "on-demand"})},
			want:    []string{"1: refused by the cloud for lack of capacity"},
			retryAt: now.Add(UnavailableFor - 10*time.Second),
		},
	}
	region := usWest2(t)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := region.Offerings(c.req, c.opts).Err()
			var noFit *NoFitError
			if !errors.As(err, &noFit) {
				t.Fatalf("%s: got error %v, want a NoFitError", c.reason, err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %q does not say %q", c.reason, err, part)
				}
			}
			if !noFit.RetryAt.Equal(c.retryAt) {
				t.Errorf("%s: retry at %v, want %v", c.reason, noFit.RetryAt, c.retryAt)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	region := usWest2(t)
	v, err := region.Explain("t4g.nano", needs("4", "1Gi"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := Verdict{
		InstanceType: "t4g.nano",
		Reasons:      []Reason{ReasonArchitecture, ReasonCPU, ReasonMemory},
		Messages: []string{
			"not amd64", "fewer than 4 vCPUs (at most 2: t4g.nano)",
			"less than 1 GiB of memory left for the pod (at most 261 MiB: t4g.nano)",
		},
	}
	if diff := cmp.Diff(want, v); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if v, err := region.Explain("t3a.nano", needs("50m", "128Mi"), Options{}); err != nil || !v.Fits {
		t.Errorf("t3a.nano: %+v, %v", v, err)
	}
	var unknown *UnknownTypeError
	if _, err := region.Explain("t3a.nanoo", needs("50m", "128Mi"), Options{}); !errors.As(err, &unknown) {
		t.Errorf("got error %v, want an UnknownTypeError", err)
	}
}

// TestZonesUnknown: no zones are known of us-gov-west-1.
func TestZonesUnknown(t *testing.T) {
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	region, err := c.Region("us-gov-west-1")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason  string
		pod     []string
		subnets []string
		want    []string
	}{
		"none known":     {reason: "the cloud chooses", want: []string{""}},
		"subnets":        {reason: "taken to be right", subnets: []string{"b", "a", "a"}, want: []string{"b", "a"}},
		"pod":            {reason: "taken to be right", pod: []string{"c"}, want: []string{"c"}},
		"pod excludes":   {reason: "the cloud cannot be told what not to choose, subnets can", pod: []string{"!a"}, subnets: []string{"a", "b"}, want: []string{"b"}},
		"nothing shared": {reason: "no zone is left", pod: []string{"c"}, subnets: []string{"a"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			req := needs("50m", "128Mi", func(r *v1beta1.Requirements) { r.Zones, r.InstanceTypes = tc.pod, []string{"t3.nano"} })
			var got []string
			for _, o := range region.Offerings(req, Options{Zones: tc.subnets}).Offerings {
				got = append(got, o.Zone)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got\n%s", tc.reason, diff)
			}
		})
	}
}

func BenchmarkOfferings(b *testing.B) {
	region := usWest2(b)
	req := needs("500m", "1Gi")
	b.ReportAllocs()
	for b.Loop() {
		region.Offerings(req, Options{Limit: 20})
	}
}
