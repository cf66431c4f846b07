package aws

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// outcome is a row of the table: what one answer of EC2 leads to.
type outcome struct {
	kind cloudprovider.Kind
	// launched is the offering that a cell gets whose first launch was answered
	// so, and said the reason that it waited for meanwhile, if any.
	launched, said string
	// repeated: the SDK asks again by itself where nothing is launched, so that
	// nobody else notices.
	repeated bool
	why      string
}

var faults = map[string]outcome{
	"InsufficientInstanceCapacity": {cloudprovider.InsufficientCapacity, "t3.micro spot us-west-2b", "", false, "the next offering, at once"},
	"InsufficientCapacityOnHost":   {cloudprovider.InsufficientCapacity, "t3.micro spot us-west-2b", "", false, "the next offering, at once"},
	"SpotMaxPriceTooLow":           {cloudprovider.InsufficientCapacity, "t3.micro spot us-west-2b", "", false, "no spot capacity at any price"},
	"Unsupported":                  {cloudprovider.Unsupported, "t3.micro spot us-west-2b", "", false, "the next offering, at once"},
	"InsufficientFreeAddressesInSubnet": {cloudprovider.SubnetFull, "t3.micro spot us-west-2b", "", false,
		"the subnet has no room for any type"},
	"MaxSpotInstanceCountExceeded": {cloudprovider.QuotaExceeded, "t3.micro on-demand us-west-2a", "", false, "no other spot offering may be tried"},
	"VcpuLimitExceeded":            {cloudprovider.VCPUQuotaExceeded, "t2.micro spot us-west-2a", "", false, "a smaller one may fit"},
	"RequestLimitExceeded":         {cloudprovider.Throttled, "t3.micro spot us-west-2a", v1beta1.ReasonThrottled, true, "the same call, later"},
	"UnauthorizedOperation":        {cloudprovider.Denied, "t3.micro spot us-west-2a", v1beta1.ReasonDenied, false, "people must act"},
	"InvalidAMIID.NotFound": {cloudprovider.InvalidConfiguration, "t3.micro spot us-west-2a", v1beta1.ReasonInvalidConfiguration, false,
		"the image was looked for anew"},
	"InternalError": {cloudprovider.Transient, "t3.micro spot us-west-2a", "", true, "the SDK repeats it, with the token"},
}

// few are a handful of offerings, cheapest first.
func few(req v1beta1.Requirements, opts instancetype.Options) (r instancetype.Result) {
	for i, o := range []struct {
		name  string
		ct    v1beta1.CapacityType
		vcpus int32
	}{{"t3.micro", v1beta1.Spot, 2}, {"t2.micro", v1beta1.Spot, 1}, {"t3.micro", v1beta1.OnDemand, 2}} {
		for _, zone := range slices.Sorted(slices.Values(opts.Zones)) {
			o := instancetype.Offering{InstanceType: o.name, Zone: zone, CapacityType: o.ct, Architecture: "amd64", VCPUs: o.vcpus, HourlyUSD: float64(i + 1)}
			if _, avoided := opts.Unavailable.Until(o.Key(), opts.Now); !avoided && slices.Contains(req.CapacityTypes, o.CapacityType) {
				r.Offerings = append(r.Offerings, o)
			}
		}
	}
	return r
}

var both = v1beta1.Requirements{CapacityTypes: []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand}}

// each runs a test for every code, in a bubble of its own. The limits of EC2
// are left out: what is refused for them is in the table.
func each(t *testing.T, test func(t *testing.T, w *world, code string, f outcome)) {
	for code, f := range faults {
		t.Run(code, func(t *testing.T) {
			if got := classify(code); got != f.kind {
				t.Errorf("kind %s, want %s", got, f.kind)
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, throttle.Limits{}, few)
				w.lookEvery = time.Second
				w.add("cell", both)
				test(t, w, code, f)
			})
		})
	}
}

// told returns the events since it was called last.
func (w *world) told() (all []string) {
	for {
		select {
		case e := <-w.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// tells checks that an event of the reason was told, or none.
func (w *world) tells(events []string, reason string, f outcome) {
	w.t.Helper()
	var warnings []string
	for _, e := range events {
		if strings.HasPrefix(e, "Warning ") && !strings.Contains(e, "NodeDenied") {
			warnings = append(warnings, e)
		}
	}
	if reason == "" && len(warnings) > 0 || reason != "" && (len(warnings) == 0 || !strings.HasPrefix(warnings[0], "Warning "+reason)) {
		w.t.Errorf("%s: told %q, want reason %q", f.why, warnings, reason)
	}
}

// operator checks that the operator learns of a denied action, and of no other.
func (w *world) operator(events []string, action string, f outcome) {
	w.t.Helper()
	if got, want := slices.Contains(events, "Warning NodeDenied "+action), f.kind == cloudprovider.Denied; got != want {
		w.t.Errorf("told of %s: %v, want %v: %q", action, got, want, events)
	}
	if got := testutil.ToFloat64(w.driver.calls.refusals.WithLabelValues(action)); (got > 0) != (f.kind == cloudprovider.Denied) {
		w.t.Errorf("denials of %s: %v", action, got)
	}
}

// counted checks that the answer is in the metric of calls.
func (w *world) counted(action, code string) {
	w.t.Helper()
	if got := testutil.ToFloat64(w.driver.calls.total.WithLabelValues(action, code)); got != 1 {
		w.t.Errorf("%s %s is counted %v times", action, code, got)
	}
}

func TestFaultsOfLaunch(t *testing.T) {
	each(t, func(t *testing.T, w *world, code string, f outcome) {
		w.faults(fmt.Sprintf(`[{"code":%q,"count":1}]`, code))
		took, _ := w.run([]string{"cell"}, 5*time.Minute, func() bool { return w.started() == 1 })
		w.oneEach([]string{"cell"})
		l := w.cell("cell").Status.Launch
		if got := fmt.Sprintf("%s %s %s", l.InstanceType, l.CapacityType, l.Zone); got != f.launched {
			t.Errorf("launched %s, want %s: %s", got, f.launched, f.why)
		}
		if f.said == "" && !f.repeated && took > 5*time.Second {
			t.Errorf("%s: took %s", f.why, took)
		}
		events := w.told()
		w.tells(events, f.said, f)
		w.operator(events, "ec2:RunInstances", f)
		w.counted("ec2:RunInstances", code)
		if code == "InvalidAMIID.NotFound" && w.calls["DescribeImages"] != 2 {
			t.Errorf("images were looked for %d times, want once more after the refusal", w.calls["DescribeImages"])
		}
	})
}

// TestFaultsOfTagging: EC2 checks the right to tag as part of a launch, and its
// refusal names it.
func TestFaultsOfTagging(t *testing.T) {
	f := faults["UnauthorizedOperation"]
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, throttle.Limits{}, few)
		w.lookEvery = time.Second
		w.add("cell", both)
		w.faults(`[{"code":"UnauthorizedOperation","count":1,"message":"You are not authorized to perform this operation. ` +
			`User: arn:aws:iam::1:user/kip is not authorized to perform: ec2:CreateTags on resource: *"}]`)
		w.run([]string{"cell"}, 5*time.Minute, func() bool { return w.started() == 1 })
		w.oneEach([]string{"cell"})
		events := w.told()
		w.tells(events, v1beta1.ReasonDenied, f)
		w.operator(events, "ec2:CreateTags", f)
		w.counted("ec2:RunInstances", "UnauthorizedOperation")
	})
}

// TestFaultsOfDescribe: a look that fails harms no cell, and is made again.
func TestFaultsOfDescribe(t *testing.T) {
	each(t, func(t *testing.T, w *world, code string, f outcome) {
		w.run([]string{"cell"}, time.Minute, func() bool { return w.started() == 1 })
		w.told()
		w.faults(fmt.Sprintf(`[{"action":"DescribeInstances","code":%q,"count":1}]`, code))
		_, err := w.kip.Observe(t.Context())
		if (err == nil) != f.repeated {
			t.Errorf("the look: %v, repeated by the SDK: %v", err, f.repeated)
		}
		if err != nil && cloudprovider.KindOf(err) != f.kind {
			t.Errorf("kind %s, want %s", cloudprovider.KindOf(err), f.kind)
		}
		if _, err := w.kip.Observe(t.Context()); err != nil {
			t.Errorf("the next look: %v", err)
		}
		w.oneEach([]string{"cell"})
		events := w.told()
		w.tells(events, "", f)
		w.operator(events, "ec2:DescribeInstances", f)
		w.counted("ec2:DescribeInstances", code)
	})
}

// TestFaultsOfTerminate: the instance ends all the same, and its Cell only then.
func TestFaultsOfTerminate(t *testing.T) {
	said := map[cloudprovider.Kind]string{
		cloudprovider.InsufficientCapacity: v1beta1.ReasonInsufficientCapacity, cloudprovider.Unsupported: v1beta1.ReasonInsufficientCapacity,
		cloudprovider.SubnetFull: v1beta1.ReasonSubnetFull, cloudprovider.QuotaExceeded: v1beta1.ReasonQuotaExceeded,
		cloudprovider.VCPUQuotaExceeded: v1beta1.ReasonQuotaExceeded, cloudprovider.Denied: v1beta1.ReasonDenied,
		cloudprovider.InvalidConfiguration: v1beta1.ReasonInvalidConfiguration,
	}
	each(t, func(t *testing.T, w *world, code string, f outcome) {
		w.run([]string{"cell"}, time.Minute, func() bool { return w.started() == 1 })
		w.told()
		w.faults(fmt.Sprintf(`[{"action":"TerminateInstances","code":%q,"count":1}]`, code))
		if err := w.api.Delete(t.Context(), w.cell("cell")); err != nil {
			t.Fatal(err)
		}
		w.run([]string{"cell"}, 5*time.Minute, func() bool { return w.cell("cell") == nil })
		all, err := w.driver.List(t.Context())
		if err != nil || len(all) != 1 || all[0].State != cloudprovider.StateTerminated || w.cell("cell") != nil {
			t.Errorf("the cell is %v and the instances are %+v (%v)", w.cell("cell"), all, err)
		}
		events := w.told()
		w.tells(events, said[f.kind], f)
		w.operator(events, "ec2:TerminateInstances", f)
		w.counted("ec2:TerminateInstances", code)
	})
}
