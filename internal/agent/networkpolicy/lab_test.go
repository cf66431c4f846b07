package networkpolicy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Addresses of the lab.
var (
	podIP  = netip.MustParseAddr("10.98.0.12")
	cellIP = netip.MustParseAddr("10.98.0.11")
	// peers are others in the VPC.
	peers = []netip.Addr{
		netip.MustParseAddr("10.98.0.100"), netip.MustParseAddr("10.98.0.101"), netip.MustParseAddr("10.98.0.102"),
		netip.MustParseAddr("10.98.1.100"), netip.MustParseAddr("10.98.250.250"),
	}
)

const (
	// patience is how long a packet may take that arrives, silence how long one
	// is waited for that does not.
	patience = 5 * time.Second
	silence  = 150 * time.Millisecond
)

// lab is a cell between its pod and the VPC, each in a network namespace.
type lab struct {
	*testing.T
	vpc, cell, pod netns.NsHandle
	policy         *Policy
	file           string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l := &lab{T: t, file: filepath.Join(t.TempDir(), "network-policy.json")}
	for _, ns := range []*netns.NsHandle{&l.vpc, &l.cell, &l.pod} {
		*ns = newNamespace(t)
	}
	l.wire(l.cell, "eth0", cellIP.String()+"/16", l.vpc, "vpc0", "10.98.0.1/16")
	// As the ptp plugin wires a pod: routes for single addresses.
	l.wire(l.cell, "veth1", cellIP.String()+"/32", l.pod, "eth0", podIP.String()+"/32")
	l.in(l.vpc, func() error {
		link, err := netlink.LinkByName("vpc0")
		if err != nil {
			return err
		}
		for _, p := range peers {
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: host(p)}); err != nil {
				return err
			}
		}
		return netlink.RouteReplace(&netlink.Route{Dst: host(podIP), Gw: cellIP.AsSlice(), LinkIndex: link.Attrs().Index})
	})
	l.in(l.cell, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			return err
		}
		link, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: host(podIP), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
	l.in(l.pod, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: host(cellIP), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: cellIP.AsSlice(), LinkIndex: link.Attrs().Index})
	})
	l.policy = l.newPolicy()
	return l
}

func (l *lab) newPolicy() *Policy { return New(l.file, slog.New(slog.DiscardHandler)) }

// newNamespace makes a network namespace with a loopback that is up.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if ns, err = netns.New(); err != nil {
			return
		}
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(lo)
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// wire makes a pair of interfaces between two namespaces.
func (l *lab) wire(a netns.NsHandle, nameA, addressA string, b netns.NsHandle, nameB, addressB string) {
	l.Helper()
	l.in(a, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(int(b)),
		})
	})
	for _, end := range []struct {
		ns            netns.NsHandle
		name, address string
	}{{a, nameA, addressA}, {b, nameB, addressB}} {
		l.in(end.ns, func() error {
			link, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			address, err := netlink.ParseAddr(end.address)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, address); err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		})
	}
}

func host(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }

// in runs f in the namespace. What f opens stays there.
func (l *lab) in(ns netns.NsHandle, f func() error) {
	l.Helper()
	if err := inside(ns, f); err != nil {
		l.Fatal(err)
	}
}

func inside(ns netns.NsHandle, f func() error) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			failed <- err
			return
		}
		failed <- f()
	}()
	return <-failed
}

// serve answers at the address and port: what it is sent, it sends back.
func (l *lab) serve(ns netns.NsHandle, network string, at netip.Addr, port uint16) {
	l.Helper()
	address := netip.AddrPortFrom(at, port).String()
	l.in(ns, func() error {
		if network == "udp" {
			conn, err := net.ListenPacket("udp4", address)
			if err != nil {
				return err
			}
			l.Cleanup(func() { _ = conn.Close() })
			go echoPackets(conn)
			return nil
		}
		listener, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		l.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(conn, conn) }()
			}
		}()
		return nil
	})
}

func echoPackets(conn net.PacketConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(b[:n], from)
	}
}

// dial opens a connection from an address of the namespace.
func (l *lab) dial(ns netns.NsHandle, network string, from, to netip.Addr, port uint16, timeout time.Duration) (conn net.Conn, err error) {
	err = inside(ns, func() error {
		d := net.Dialer{Timeout: timeout}
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		conn, err = d.Dial(network, netip.AddrPortFrom(to, port).String())
		return err
	})
	return conn, err
}

// echoes is whether the other end answers in time.
func (l *lab) echoes(conn net.Conn, timeout time.Duration) bool {
	l.Helper()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		l.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return false
	}
	_, err := conn.Read(make([]byte, 1))
	return err == nil
}

// passes is whether a connection from one end to the other can be made and used.
// want is what is expected, and only decides how long to wait.
func (l *lab) passes(ns netns.NsHandle, network string, from, to netip.Addr, port uint16, want bool) bool {
	l.Helper()
	timeout := silence
	if want {
		timeout = patience
	}
	conn, err := l.dial(ns, network, from, to, port, timeout)
	if err != nil {
		var timedOut net.Error
		if !errors.As(err, &timedOut) || !timedOut.Timeout() {
			if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EHOSTUNREACH) {
				l.Fatalf("%s from %s to %s:%d: %v", network, from, to, port, err)
			}
		}
		return false
	}
	defer conn.Close()
	return l.echoes(conn, timeout)
}
