package aws

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// micro always offers the same.
func micro(v1beta1.Requirements, instancetype.Options) instancetype.Result {
	return instancetype.Result{Offerings: []instancetype.Offering{{
		InstanceType: "t3.micro", Zone: "us-west-2a", CapacityType: v1beta1.OnDemand, Architecture: "amd64", HourlyUSD: 0.01,
	}}}
}

// TestBurst: more pods at once than EC2 lets be launched. None fails, next to
// no call is wasted, and looking costs the same however many there are.
func TestBurst(t *testing.T) {
	// findingOut is what it costs once to learn an account's limit: the rate is
	// halved from quickly to 2 a second, and calls may be under way meanwhile.
	const findingOut = 8
	raised := throttle.EC2()
	raised.Requests["RunInstances"] = throttle.Limit{Burst: 200, PerSecond: 50}
	for name, tc := range map[string]struct {
		limits throttle.Limits
		cells  int
		within time.Duration
		reason string
	}{
		"a new account":         {throttle.EC2(), 1500, 18 * time.Minute, "two a second would be 12 and a half"},
		"more requests allowed": {raised, 300, time.Minute, "what the account may do is found out"},
	} {
		t.Run(name, func(t *testing.T) {
			cells := tc.cells
			if raced || testing.Short() {
				cells /= 10
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.limits, micro)
				all := names(cells)
				for _, name := range all {
					w.add(name, v1beta1.Requirements{})
				}
				took, looks := w.run(all, time.Hour, func() bool { return w.started() == cells })
				w.oneEach(all)
				if took > tc.within {
					t.Errorf("took %s, want at most %s: %s", took, tc.within, tc.reason)
				}
				launches, wasted := w.calls["RunInstances"], w.refused["RunInstances RequestLimitExceeded"]
				most := launches / 50
				if cells < tc.cells {
					most += findingOut // which the whole size has room for
				}
				if wasted > most {
					t.Errorf("of %d launches %d came too soon, want at most %d", launches, wasted, most)
				}
				if n := w.reasons[v1beta1.ReasonInstanceGone] + w.reasons[v1beta1.ReasonCloudError]; n > 0 {
					t.Errorf("%d cells failed: %v", n, w.reasons)
				}
				if w.reasons[v1beta1.ReasonThrottled] == 0 {
					t.Error("no cell says that it waited for its turn")
				}
				describes := 0
				for action, n := range w.calls {
					if strings.HasPrefix(action, "Describe") {
						describes += n
					}
				}
				// A look has a page for each thousand instances. Subnets, images
				// and the group are read every few minutes.
				const perMinute = 4
				if most := looks*(1+cells/1000) + 10 + perMinute*int(took/time.Minute); describes > most {
					t.Errorf("%d Describe calls in %d looks, want at most %d: %v", describes, looks, most, w.calls)
				}
				t.Logf("%d cells in %s; calls %v, refused %v", cells, took, w.calls, w.refused)
			})
		})
	}
}
