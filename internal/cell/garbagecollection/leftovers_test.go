package garbagecollection

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

func routedCell(nic string) *v1beta1.Cell {
	c := cell("c", "uid", "i-1")
	c.Status.NetworkInterfaceID = nic
	return c
}

func TestLeftovers(t *testing.T) {
	route := cloudprovider.Leftover{Kind: cloudprovider.LeftRoute, ID: "10.20.0.0/16 in rtb-1 to eni-1", NetworkInterface: "eni-1"}
	for name, tc := range map[string]struct {
		reason string
		what   cloudprovider.Leftover
		cells  []client.Object
		fault  *cloudprovidertest.Fault
		dry    bool
		left   bool
		told   string // part of the event; "" means none
		result string
	}{
		"volume":       {reason: "it costs money", what: cloudprovider.Leftover{Kind: cloudprovider.LeftVolume, ID: "vol-1", CellName: "c"}, told: "volume vol-1", result: "removed"},
		"group":        {reason: "it is in nobody's way, but ours", what: cloudprovider.Leftover{Kind: cloudprovider.LeftGroup, ID: "sg-1"}, told: "security-group sg-1", result: "removed"},
		"route":        {reason: "nobody can have that network", what: route, told: "10.20.0.0/16", result: "removed"},
		"route in use": {reason: "its Cell removes it", what: route, cells: []client.Object{routedCell("eni-1")}, left: true},
		"another cell": {reason: "it leads elsewhere", what: route, cells: []client.Object{routedCell("eni-2")}, told: "10.20.0.0/16", result: "removed"},
		"dry run":      {reason: "told and left", what: route, dry: true, left: true, told: "dry run", result: "kept"},
		"denied":       {reason: "the right is optional; people may remove it", what: route, left: true, told: "may not remove it", result: "kept", fault: &cloudprovidertest.Fault{Method: cloudprovidertest.RemoveLeftover, Err: &cloudprovider.Error{Kind: cloudprovider.Denied, Action: "ec2:DeleteVolume"}}},
		"in use after all": {reason: "the cloud refuses, and it is tried again", what: route, told: "10.20.0.0/16", result: "removed",
			fault: &cloudprovidertest.Fault{Method: cloudprovidertest.RemoveLeftover, Times: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := cloudprovidertest.New(clock.RealClock{})
				c, events := newCollector(t, cloud, tc.cells, tc.cells, func(cfg *Config) { cfg.DryRun = tc.dry })
				if tc.fault != nil {
					cloud.Script(*tc.fault)
				}
				cloud.Leave(tc.what)
				began := time.Now()
				for range 60 {
					_ = c.Collect(t.Context())
					if len(cloud.Left()) == 0 && time.Since(began) < leftoverGrace {
						t.Fatalf("it is gone after %s: an instance may have begun or ended", time.Since(began))
					}
					time.Sleep(time.Minute)
				}
				if got := len(cloud.Left()) == 1; got != tc.left {
					t.Errorf("%s: left = %t, want %t", tc.reason, got, tc.left)
				}
				if n := len(events.Events); n != 0 && tc.told == "" || n != 1 && tc.told != "" {
					t.Fatalf("%d events", n)
				}
				if tc.told == "" {
					return
				}
				if e := <-events.Events; !strings.Contains(e, "LeftoverFound") || !strings.Contains(e, tc.told) {
					t.Errorf("told was %q, want %q", e, tc.told)
				}
				if got := testutil.ToFloat64(c.leftovers.WithLabelValues(string(tc.what.Kind), tc.result)); got != 1 {
					t.Errorf("counted %v times as %s", got, tc.result)
				}
				if n := cloud.Calls(cloudprovidertest.Leftovers); n > 13 {
					t.Errorf("the cloud was asked %d times in an hour", n)
				}
			})
		})
	}
}

// TestPassingLeftover: what is left over at some looks and not at others is not.
func TestPassingLeftover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := cloudprovidertest.New(clock.RealClock{})
		c, events := newCollector(t, cloud, nil, nil)
		provider, volume := cloud.Provider("test"), cloudprovider.Leftover{Kind: cloudprovider.LeftVolume, ID: "vol-1"}
		for minute := range 120 {
			if err := c.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			switch minute % 15 {
			case 1:
				cloud.Leave(volume)
			case 10:
				if len(cloud.Left()) != 1 {
					t.Fatal("it was removed")
				}
				if err := provider.RemoveLeftover(t.Context(), volume); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		if len(events.Events) != 0 {
			t.Error("it was told")
		}
	})
}
