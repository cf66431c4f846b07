package vpcnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

var nowhere netip.Addr

// TestReachability connects everything that must reach each other.
func TestReachability(t *testing.T) {
	n := openTestNetwork(t)
	a, b, c := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11), attachGuest(t, n, 1, 12)
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, g := range []*guest{a, b, c} {
		listen(t, g.ns)
		addAddress(t, g.ns, "eth0", netip.PrefixFrom(g.secondary(), 32))
	}
	imds, err := n.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, imds)
	hostService, err := net.Listen("tcp4", net.JoinHostPort(testConfig().HostAddress().String(), "99"))
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, hostService)

	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 99) }
	cases := map[string]struct {
		reason string
		ns     netns.NsHandle
		from   netip.Addr
		to     netip.AddrPort
		seen   netip.Addr
	}{
		"SameSubnet":      {"Machines of a subnet share a wire.", a.ns, nowhere, at(b.primary()), a.primary()},
		"OtherSubnet":     {"The subnets' routers route.", a.ns, nowhere, at(c.primary()), a.primary()},
		"OtherSubnetBack": {"… both ways.", c.ns, nowhere, at(a.primary()), c.primary()},
		"ToSecondary":     {"A pod's address is as good as a machine's.", a.ns, nowhere, at(c.secondary()), a.primary()},
		"FromSecondary":   {"A pod speaks from its own address.", a.ns, a.secondary(), at(b.secondary()), a.secondary()},
		"ToHost":          {"Machines use the host's registry and DNS.", a.ns, nowhere, at(testConfig().HostAddress()), a.primary()},
		"FromHost":        {"Kip dials machines.", host, nowhere, at(c.primary()), testConfig().HostAddress()},
		"FromHostToPod":   {"The host reaches pods.", host, nowhere, at(a.secondary()), testConfig().HostAddress()},
		"Metadata":        {"The metadata service sees who asks.", b.ns, nowhere, MetadataAddress, b.primary()},
		"MetadataFar":     {"It is there for every subnet.", c.ns, nowhere, MetadataAddress, c.primary()},
		"MetadataPod":     {"A pod's question comes from the pod's address.", b.ns, b.secondary(), MetadataAddress, b.secondary()},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			seen, err := dial(tc.ns, tc.from, tc.to)
			if err != nil || seen != tc.seen.String() {
				t.Errorf("%s connecting to %s: got %q, %v; want to be seen as %s", tc.reason, tc.to, seen, err, tc.seen)
			}
		})
	}

	t.Run("NoWayOut", func(t *testing.T) {
		if _, err := dial(a.ns, nowhere, netip.MustParseAddrPort("192.0.2.1:99")); err == nil {
			t.Error("connected to an address outside of the VPC")
		}
	})
}

// TestProxyARP gives a pod the secondary address, as the agent of a machine does.
func TestProxyARP(t *testing.T) {
	n := openTestNetwork(t)
	a, b, c := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11), attachGuest(t, n, 1, 12)
	for _, g := range []*guest{b, c} {
		listen(t, g.ns)
	}
	pod := newNamespace(t)
	inside, outside := links(t, pod), links(t, a.ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pod0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod)}
	if err := outside.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	addAddress(t, a.ns, "pod0", netip.PrefixFrom(a.primary(), 32))
	addAddress(t, pod, "eth0", netip.PrefixFrom(a.secondary(), 32))
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	host := func(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
	index := eth0.Attrs().Index
	err = errors.Join(
		outside.RouteAdd(&netlink.Route{LinkIndex: veth.Attrs().Index, Dst: host(a.secondary())}),
		inside.RouteAdd(&netlink.Route{LinkIndex: index, Dst: host(a.primary()), Scope: netlink.SCOPE_LINK}),
		inside.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: a.primary().AsSlice()}),
	)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(awaitUp(t.Context(), outside, "pod0"), awaitUp(t.Context(), inside, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	sysctl(t, a.ns, "ipv4/ip_forward", "1")
	sysctl(t, a.ns, "ipv4/conf/eth0/proxy_arp", "1")
	sysctl(t, a.ns, "ipv4/neigh/eth0/proxy_delay", "0")
	listen(t, pod)

	self, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	podPort := netip.AddrPortFrom(a.secondary(), 99)
	for name, from := range map[string]netns.NsHandle{"same subnet": b.ns, "other subnet": c.ns, "host": self} {
		if seen, err := dial(from, nowhere, podPort); err != nil {
			t.Errorf("reaching the pod from the %s: %q, %v", name, seen, err)
		}
	}
	for _, g := range []*guest{b, c} {
		seen, err := dial(pod, nowhere, netip.AddrPortFrom(g.primary(), 99))
		if err != nil || seen != a.secondary().String() {
			t.Errorf("from the pod to %s: seen as %q, %v; want %s", g.primary(), seen, err, a.secondary())
		}
	}
}

// TestLifecycle opens, reopens, attaches again, detaches and destroys.
func TestLifecycle(t *testing.T) {
	n := openTestNetwork(t)
	imds, err := n.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	a, b := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11)
	listen(t, b.ns)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := imds.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the metadata listener after Close: got %v, want it closed", err)
	}
	toB := netip.AddrPortFrom(b.primary(), 99)
	if _, err := dial(a.ns, nowhere, toB); err != nil {
		t.Errorf("the network after Close: %v", err)
	}

	// ip(8) mounts the directory of names over itself, unless it is a mount already.
	stranger := fmt.Sprintf("kip-test%d", os.Getpid())
	if out, err := exec.CommandContext(t.Context(), "ip", "netns", "add", stranger).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		if out, err := exec.Command("ip", "netns", "delete", stranger).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()

	again, err := Open(t.Context(), testConfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(a.ns, nowhere, toB); err != nil {
		t.Errorf("the network after it was taken up again: %v", err)
	}
	for range 2 { // a second Detach finds nothing
		if err := again.Detach(t.Context(), a.nic); err != nil {
			t.Error(err)
		}
	}
	// The addresses are free for another machine on another device.
	other := &guest{nic: a.nic, ns: newNamespace(t)}
	other.nic.Device = "i-other"
	for range 2 { // the second Attach replaces what an interrupted first one left
		if err := again.Attach(t.Context(), other.nic, other.ns); err != nil {
			t.Fatal(err)
		}
	}
	if seen, err := dial(other.ns, nowhere, toB); err != nil || seen != a.primary().String() {
		t.Errorf("a machine with a freed address: seen as %q, %v", seen, err)
	}

	if err := again.Destroy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(namespaceDir, testConfig().NamespaceName())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace after Destroy: %v", err)
	}
	if _, err := netlink.LinkByName(testConfig().HostLink()); err == nil {
		t.Error("the host's link is still there after Destroy")
	}
	if err := checkConflicts(testConfig()); err != nil {
		t.Errorf("after Destroy: %v", err)
	}
	if err := Destroy(testConfig()); err != nil {
		t.Errorf("destroying what is gone: %v", err)
	}
}

// TestOpenAfterInterruption opens a network of which there are pieces.
func TestOpenAfterInterruption(t *testing.T) {
	c := testConfig()
	cases := map[string]struct {
		reason string
		damage func(t *testing.T, n *Network)
	}{
		"NameWithoutNamespace": {
			reason: "A restart of the host leaves nothing but perhaps the file.",
			damage: func(t *testing.T, n *Network) {
				if err := n.Destroy(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(namespaceDir, c.NamespaceName()), nil, 0o444); err != nil {
					t.Fatal(err)
				}
			},
		},
		"NoHostLink": {
			reason: "Someone deleted the link.",
			damage: func(t *testing.T, _ *Network) {
				link, err := netlink.LinkByName(c.HostLink())
				if err == nil {
					err = netlink.LinkDel(link)
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		},
		"NoNamespace": {
			reason: "The namespace lost its name, and the link's other end hangs in it.",
			damage: func(t *testing.T, _ *Network) {
				if err := deleteNamespace(c.NamespaceName()); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			n := openTestNetwork(t)
			tc.damage(t, n)
			again, err := Open(t.Context(), c)
			if err != nil {
				t.Fatalf("%s %v", tc.reason, err)
			}
			defer func() {
				if err := again.Close(); err != nil {
					t.Error(err)
				}
			}()
			g := attachGuest(t, again, 0, 10)
			listen(t, g.ns)
			self, err := netns.Get()
			if err != nil {
				t.Fatal(err)
			}
			defer self.Close()
			if _, err := dial(self, nowhere, netip.AddrPortFrom(g.primary(), 99)); err != nil {
				t.Errorf("%s The network does not work: %v", tc.reason, err)
			}
		})
	}
}

func TestOpenConflict(t *testing.T) {
	openTestNetwork(t)
	for name, cidr := range map[string]string{"same range": "10.221.0.0/16", "wider range": "10.0.0.0/8"} {
		c := Config{Cluster: "vtest2", CIDR: netip.MustParsePrefix(cidr)}
		n, err := Open(t.Context(), c)
		if !errors.Is(err, ErrConflict) {
			t.Errorf("%s: got %v, want ErrConflict", name, err)
		}
		if err == nil {
			if err := n.Destroy(); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(filepath.Join(namespaceDir, c.NamespaceName())); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a refused Open left its namespace (%v)", name, err)
		}
	}
}
