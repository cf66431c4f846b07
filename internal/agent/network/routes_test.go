package network

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNamespace runs the rest of the test in a network namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A thread that does not come back stays locked and ends with the test.
		if err := netns.Set(before); err == nil {
			runtime.UnlockOSThread()
		}
		_, _ = ns.Close(), before.Close()
	})
}

// addLink makes a pair of interfaces and returns the near one.
func addLink(t *testing.T, name string, address string) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.AddrAdd(link, a), netlink.LinkSetUp(link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return link
}

func TestRouteToPod(t *testing.T) {
	inNamespace(t)
	pod := netip.MustParseAddr("10.98.0.12")
	networks := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("10.30.1.0/24")}
	uplink := addLink(t, "eth0", "10.98.0.11/20")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.IPv4(10, 98, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	// next is the interface on which a packet for the second network leaves, 0
	// if it does not.
	next := func() int {
		t.Helper()
		for range 2 { // it may be repeated
			if err := RouteToPod(pod, networks); err != nil {
				t.Fatal(err)
			}
		}
		got, err := netlink.RouteGet(net.IPv4(10, 30, 1, 9))
		if err != nil {
			return 0
		}
		return got[0].LinkIndex
	}
	if got := next(); got != 0 {
		t.Errorf("without a pod the packets go out again, by interface %d", got)
	}

	// As the ptp plugin makes it.
	for _, name := range []string{"veth1", "veth2"} {
		link := addLink(t, name, "10.98.0.11/32")
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: net.IPv4(10, 98, 0, 12), Mask: net.CIDRMask(32, 32)}}); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != link.Attrs().Index {
			t.Errorf("packets go to interface %d, want the pod's, %d", got, link.Attrs().Index)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != 0 {
			t.Errorf("with the sandbox gone the packets go out again, by interface %d", got)
		}
	}
}
