package vpcnet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// testConfig is a network that nothing but these tests uses.
func testConfig() Config {
	return Config{
		Cluster: "vtest",
		CIDR:    netip.MustParsePrefix("10.221.0.0/16"),
	}
}

func openTestNetwork(t *testing.T) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("the VPC's network needs the nft program (package nftables)")
	}
	n, err := Open(t.Context(), testConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// guest is a network namespace without processes, in place of a machine.
type guest struct {
	nic machine.NIC
	ns  netns.NsHandle
}

// attachGuest plugs a guest into the given subnet. Its addresses end in number; the secondary one is 256 higher.
func attachGuest(t *testing.T, n *Network, subnet, number byte) *guest {
	t.Helper()
	g := &guest{
		ns: newNamespace(t),
		nic: machine.NIC{
			MAC:          fmt.Sprintf("02:00:00:00:%02x:%02x", subnet, number),
			Device:       fmt.Sprintf("i-%02x%02x", subnet, number),
			PrimaryIP:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 221, subnet * 16, number}), 20),
			SecondaryIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 221, subnet*16 + 1, number})},
			Gateway:      netip.AddrFrom4([4]byte{10, 221, subnet * 16, 1}),
		},
	}
	if err := n.Attach(t.Context(), g.nic, g.ns); err != nil {
		t.Fatal(err)
	}
	return g
}

func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	ns := netns.None()
	err := onOwnThread(func() (err error) {
		ns, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func (g *guest) primary() netip.Addr   { return g.nic.PrimaryIP.Addr() }
func (g *guest) secondary() netip.Addr { return g.nic.SecondaryIPs[0] }

// broadcast is the last address of the guest's subnet.
func (g *guest) broadcast() netip.Addr {
	a := g.primary().As4()
	return netip.AddrFrom4([4]byte{a[0], a[1], a[2] | 15, 255})
}

// links is rtnetlink inside a namespace.
func links(t *testing.T, ns netns.NsHandle) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// addAddress gives an interface in the namespace an address.
func addAddress(t *testing.T, ns netns.NsHandle, device string, p netip.Prefix) {
	t.Helper()
	h := links(t, ns)
	link, err := h.LinkByName(device)
	if err == nil {
		err = errors.Join(h.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p)}), h.LinkSetUp(link))
	}
	if err != nil {
		t.Fatalf("adding %s to %s: %v", p, device, err)
	}
}

func sysctl(t *testing.T, ns netns.NsHandle, name, value string) {
	t.Helper()
	err := inNamespace(ns, func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// serveRemoteAddress answers every connection with the address it comes from.
func serveRemoteAddress(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			_, _ = io.WriteString(conn, host)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// listen makes the namespace answer on every address at port 99.
func listen(t *testing.T, ns netns.NsHandle) {
	t.Helper()
	var l net.Listener
	err := inNamespace(ns, func() (err error) {
		l, err = net.Listen("tcp4", ":99")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, l)
}

// dial connects from the namespace, from a given address unless that is invalid, and returns what the other side saw.
func dial(ns netns.NsHandle, from netip.Addr, to netip.AddrPort) (seen string, _ error) {
	d := net.Dialer{Timeout: 500 * time.Millisecond}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	err := inNamespace(ns, func() error {
		conn, err := d.Dial("tcp4", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn)
		seen = string(answer)
		return err
	})
	return seen, err
}
