package aws

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/ec2local/fault"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// TestNineOfTenSoldOut: each cell gets the cheapest of what is left, once.
func TestNineOfTenSoldOut(t *testing.T) {
	region, err := catalogue(t).Region("us-west-2")
	if err != nil {
		t.Fatal(err)
	}
	wishes := []v1beta1.Requirements{}
	for _, cpu := range []string{"100m", "1", "3", "7"} {
		for _, memory := range []string{"256Mi", "6Gi", "20Gi"} {
			wishes = append(wishes, v1beta1.Requirements{
				CPU: resource.MustParse(cpu), Memory: resource.MustParse(memory), Architectures: []string{"amd64"},
				CapacityTypes: []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand}, InstanceTypes: []string{"t3.*", "m5.*", "c5.*", "r5.*"},
			})
		}
	}
	zones := []string{"us-west-2a", "us-west-2b", "us-west-2c"}
	fitting := func(r v1beta1.Requirements) []instancetype.Offering {
		return region.Offerings(r, instancetype.Options{Zones: zones}).Offerings
	}
	dice := rand.New(rand.NewPCG(1, 2))
	soldOut := map[instancetype.Key]bool{}
	var rules []fault.Rule
	for _, o := range fitting(wishes[0]) { // the smallest, so all
		if dice.Float64() < 0.9 {
			soldOut[o.Key()] = true
			rules = append(rules, fault.Rule{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: string(o.CapacityType)})
		}
	}
	script, err := json.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		const cells = 200
		w := newWorld(t, throttle.EC2(), region.Offerings)
		w.faults(string(script))
		all := names(cells)
		wish := map[string]v1beta1.Requirements{}
		for _, name := range all {
			wish[name] = wishes[dice.IntN(len(wishes))]
			w.add(name, wish[name])
		}
		w.run(all, time.Hour, func() bool { return w.started() == cells })
		w.oneEach(all)
		for _, name := range all {
			left := slices.DeleteFunc(fitting(wish[name]), func(o instancetype.Offering) bool { return soldOut[o.Key()] })
			cheapest := slices.MinFunc(left, func(a, b instancetype.Offering) int {
				if a.HourlyUSD < b.HourlyUSD {
					return -1
				}
				return 1
			})
			l := w.cell(name).Status.Launch
			if l.HourlyUSD != cheapest.Price() || soldOut[instancetype.Key{InstanceType: l.InstanceType, Zone: l.Zone, CapacityType: l.CapacityType}] {
				t.Errorf("%s got %s (%s) in %s for %s, and %s (%s) in %s for %s was to be had", name,
					l.InstanceType, l.CapacityType, l.Zone, l.HourlyUSD, cheapest.InstanceType, cheapest.CapacityType, cheapest.Zone, cheapest.Price())
			}
		}
		// What one cell was refused the others do not ask for.
		if n := w.refused["RunInstances InsufficientInstanceCapacity"]; n > len(soldOut)+workers {
			t.Errorf("%d launches found no capacity, of %d offerings that have none", n, len(soldOut))
		}
		t.Logf("%d of %d offerings sold out; calls %v, refused %v", len(soldOut), len(fitting(wishes[0])), w.calls, w.refused)
	})
}
