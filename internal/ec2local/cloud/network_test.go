package cloud

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
)

// fakeNetwork remembers what it was told last.
type fakeNetwork struct {
	mu     sync.Mutex
	policy machine.Policy
	told   int
	err    error // of the next calls
}

func (n *fakeNetwork) Enforce(_ context.Context, p machine.Policy) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.policy, n.told = p, n.told+1
	}
	return n.err
}

func (n *fakeNetwork) last() machine.Policy {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.policy
}

func (n *fakeNetwork) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func port(p int) *int { return &p }

// sleep lets simulated time go by, and what it brings about happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestPolicy looks at what the network is told of an account with everything in it.
func TestPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, network := machinetest.New(), &fakeNetwork{}
		cfg := config(t, h)
		cfg.Network = network
		c := open(t, cfg)
		defer run(c)()
		group, err := c.CreateSecurityGroup("kip", "cells", nil, false)
		if err != nil {
			t.Fatal(err)
		}
		rules := []Rule{
			{Protocol: "tcp", FromPort: port(1), ToPort: port(2), Source: Source{CIDR: "10.0.0.0/8"}},
			{Protocol: "icmp", FromPort: port(8), ToPort: port(-1), Source: Source{GroupID: group}},
			{Protocol: "47", Source: Source{CIDR: "0.0.0.0/0"}},
			{Protocol: "tcp", FromPort: port(1), ToPort: port(2), Source: Source{CIDR6: "fd00::/8"}},
			{Protocol: "icmpv6", Source: Source{CIDR: "0.0.0.0/0"}},
		}
		if _, err := c.AddRules(group, false, rules, false); err != nil {
			t.Fatal(err)
		}
		l := small("")
		l.Groups = []string{group}
		i := launch(t, c, l)[0]
		synctest.Wait()
		if h.Running(i.ID) || len(network.last().Ports) != 1 {
			t.Error("the network must know a machine before it runs")
		}
		table, err := c.CreateRouteTable("", nil, false)
		if err != nil {
			t.Fatal(err)
		}
		destination := netip.MustParsePrefix("192.168.0.0/16")
		off := false
		_, associated := c.Associate(table.ID, i.Interface.SubnetID, false)
		err = errors.Join(associated,
			c.CreateRoute(table.ID, destination, Target{InterfaceID: i.Interface.ID}, false),
			c.Modify(i.ID, Attributes{SourceDestCheck: &off}, false))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got := network.last()
		device := "i-" + i.ID[len(i.ID)-12:]
		anywhere := netip.MustParsePrefix("0.0.0.0/0")
		defaultGroup := c.defaultGroup().ID
		want := machine.Policy{
			Ports: []machine.Port{{
				NIC: machine.NIC{
					MAC: i.Interface.MAC, Device: device, PrimaryIP: netip.MustParsePrefix("10.98.0.4/20"),
					SecondaryIPs: []netip.Addr{netip.MustParseAddr("10.98.0.5")}, Gateway: netip.MustParseAddr("10.98.0.1"),
				},
				Groups: []string{group}, AnyAddress: true, Table: 1,
			}},
			Groups: []machine.Group{
				{
					ID: group,
					Ingress: []machine.Rule{
						{Protocol: 6, From: 1, To: 2, Peer: netip.MustParsePrefix("10.0.0.0/8")},
						{Protocol: 1, From: 8, To: machine.Any, Group: group},
						{Protocol: 47, From: machine.Any, To: machine.Any, Peer: anywhere},
					},
					Egress: []machine.Rule{{Protocol: machine.Any, From: machine.Any, To: machine.Any, Peer: anywhere}},
				},
				{
					ID:      defaultGroup,
					Ingress: []machine.Rule{{Protocol: machine.Any, From: machine.Any, To: machine.Any, Group: defaultGroup}},
					Egress:  []machine.Rule{{Protocol: machine.Any, From: machine.Any, To: machine.Any, Peer: anywhere}},
				},
			},
			Tables: []machine.RouteTable{
				{Number: 0, Routes: map[netip.Prefix]string{}},
				{Number: 1, Routes: map[netip.Prefix]string{destination: device}},
			},
		}
		options := cmp.Options{
			cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}),
			cmpopts.SortSlices(func(x, y machine.Group) bool { return x.ID < y.ID }),
			cmpopts.SortSlices(func(x, y machine.RouteTable) bool { return x.Number < y.Number }),
		}
		if diff := cmp.Diff(want, got, options); diff != "" {
			t.Errorf("the policy (-want +got):\n%s", diff)
		}

		if _, err := c.Terminate([]string{i.ID}, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(network.last().Ports); n != 1 {
			t.Error("a machine that is shutting down has its port no longer")
		}
		sleep(testDelays.Terminate)
		if got := network.last(); len(got.Ports) != 0 || len(got.Tables[0].Routes)+len(got.Tables[1].Routes) != 0 {
			t.Errorf("after the end there is still %+v", got)
		}
	})
}

// TestNetworkThatFails: nothing starts into a network that does not know it, and the network is told again.
func TestNetworkThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, network := machinetest.New(), &fakeNetwork{}
		cfg := config(t, h)
		cfg.Network = network
		c := open(t, cfg)
		defer run(c)()
		synctest.Wait()
		network.fail(errors.New("no nft"))
		id := launch(t, c, small(""))[0].ID
		sleep(3 * testDelays.Boot)
		if h.Running(id) || state(t, c, id) != Pending {
			t.Errorf("the instance is %s with running %t", state(t, c, id), h.Running(id))
		}
		network.fail(nil)
		sleep(2 * maxBackoff)
		if !h.Running(id) || len(network.last().Ports) != 1 {
			t.Errorf("when the network works again: running %t, %+v", h.Running(id), network.last())
		}
		told := network.told
		if err := c.ChangeTags([]string{id}, TagChange{Set: Tags{"a": "b"}}, false); err != nil {
			t.Fatal(err)
		}
		sleep(maxBackoff)
		if network.told != told {
			t.Error("the network was told of what is none of its business")
		}
	})
}
