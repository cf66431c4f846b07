package vpcnet

import (
	"net/netip"
	"testing"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// open is a policy under which everything passes between these ports.
func open(tables []machine.RouteTable, ports ...machine.Port) machine.Policy {
	for i := range ports {
		ports[i].Groups = []string{"sg-all"}
	}
	return machine.Policy{
		Ports: ports, Tables: tables,
		Groups: []machine.Group{{ID: "sg-all", Ingress: []machine.Rule{everything}, Egress: []machine.Rule{everything}}},
	}
}

// TestRouteOutOfTheVPC leads addresses that are not the VPC's to a machine.
func TestRouteOutOfTheVPC(t *testing.T) {
	n := openTestNetwork(t)
	a, c, gateway := attachGuest(t, n, 0, 10), attachGuest(t, n, 1, 12), attachGuest(t, n, 0, 20)
	beyond := netip.MustParseAddr("192.168.7.5")
	addAddress(t, gateway.ns, "eth0", netip.PrefixFrom(beyond, 32))
	listen(t, gateway.ns)
	listen(t, a.ns)

	led := map[netip.Prefix]string{netip.MustParsePrefix("192.168.7.0/24"): gateway.nic.Device}
	everywhere := map[netip.Prefix]string{anywhere: gateway.nic.Device, netip.MustParsePrefix("10.0.0.0/8"): gateway.nic.Device}
	cases := map[string]struct {
		reason    string
		routes    map[netip.Prefix]string // of table 1
		unchecked bool
		fromA     bool // which uses table 1, as c does not
	}{
		"Route":      {"The route and no check.", led, true, true},
		"Checked":    {"The machine may have its own addresses only.", led, false, false},
		"NoRoute":    {"Without a route there is no way.", nil, true, false},
		"Everywhere": {"A default route, and one that is wider than the VPC.", everywhere, true, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ports := []machine.Port{a.port(), c.port(), gateway.port()}
			ports[0].Table, ports[2].AnyAddress = 1, tc.unchecked
			enforce(t, n, open([]machine.RouteTable{{Number: 0}, {Number: 1, Routes: tc.routes}}, ports...))
			if got := reaches(a.ns, beyond, tc.fromA); got != tc.fromA {
				t.Errorf("%s From a subnet with the route: %t, want %t", tc.reason, got, tc.fromA)
			}
			if reaches(c.ns, beyond, false) {
				t.Errorf("%s It is reached from a subnet without the route.", tc.reason)
			}
			if !reaches(a.ns, gateway.primary(), true) {
				t.Errorf("%s The VPC's own addresses are hidden.", tc.reason)
			}
			// What the machine sends from there needs no route, but no check either.
			_, err := dial(gateway.ns, beyond, netip.AddrPortFrom(a.primary(), 99))
			if got := err == nil; got != tc.fromA {
				t.Errorf("%s From there: %v", tc.reason, err)
			}
		})
	}
}

// TestRouteThroughAnAppliance leads what is for a whole subnet through a machine.
func TestRouteThroughAnAppliance(t *testing.T) {
	n := openTestNetwork(t)
	a, c, appliance := attachGuest(t, n, 0, 10), attachGuest(t, n, 1, 12), attachGuest(t, n, 0, 20)
	listen(t, c.ns)
	ports := []machine.Port{a.port(), c.port(), appliance.port()}
	ports[0].Table, ports[2].AnyAddress = 1, true
	through := map[netip.Prefix]string{netip.MustParsePrefix("10.221.16.0/20"): appliance.nic.Device}
	enforce(t, n, open([]machine.RouteTable{{Number: 0}, {Number: 1, Routes: through}}, ports...))
	if reaches(a.ns, c.primary(), false) {
		t.Error("reached past an appliance that passes nothing on")
	}
	sysctl(t, appliance.ns, "ipv4/ip_forward", "1")
	sysctl(t, appliance.ns, "ipv4/conf/all/send_redirects", "0")
	sysctl(t, appliance.ns, "ipv4/conf/eth0/send_redirects", "0")
	if !reaches(a.ns, c.primary(), true) {
		t.Error("not reached through the appliance")
	}
}

// TestRouteWaitsForItsMachine: a machine is attached after the policy is in force, and again later.
func TestRouteWaitsForItsMachine(t *testing.T) {
	n := openTestNetwork(t)
	a, gateway := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 20)
	if err := n.Detach(t.Context(), gateway.nic); err != nil {
		t.Fatal(err)
	}
	beyond := netip.MustParseAddr("192.168.7.5")
	ports := []machine.Port{a.port(), gateway.port()}
	ports[1].AnyAddress = true
	led := map[netip.Prefix]string{netip.PrefixFrom(beyond, 32): gateway.nic.Device}
	enforce(t, n, open([]machine.RouteTable{{Number: 0, Routes: led}}, ports...))
	for range 2 {
		gateway.ns = newNamespace(t)
		if err := n.Attach(t.Context(), gateway.nic, gateway.ns); err != nil {
			t.Fatal(err)
		}
		addAddress(t, gateway.ns, "eth0", netip.PrefixFrom(beyond, 32))
		listen(t, gateway.ns)
		if !reaches(a.ns, beyond, true) {
			t.Error("the route does not lead to the machine")
		}
	}
}

// TestUncheckedIsNobodyElseToTheMetadataService: a machine without a check may send from any address, but the metadata
// service must know who asks.
func TestUncheckedIsNobodyElseToTheMetadataService(t *testing.T) {
	n := openTestNetwork(t)
	thief, owner := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11)
	imds, err := n.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, imds)
	ports := []machine.Port{thief.port(), owner.port()}
	ports[0].AnyAddress = true
	enforce(t, n, open(nil, ports...))
	addAddress(t, thief.ns, "eth0", netip.PrefixFrom(owner.primary(), 32))
	if seen, err := dial(thief.ns, owner.primary(), MetadataAddress); err == nil {
		t.Errorf("the metadata service took the thief for %s", seen)
	}
	if seen, err := dial(thief.ns, thief.primary(), MetadataAddress); err != nil || seen != thief.primary().String() {
		t.Errorf("under its own address: %q, %v", seen, err)
	}
}
