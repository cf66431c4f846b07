package vpcnet

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
)

// packetSocket is a raw socket on eth0 in a namespace.
type packetSocket struct{ fd int }

func openPacketSocket(t *testing.T, ns netns.NsHandle) packetSocket {
	t.Helper()
	all := int(binary.BigEndian.Uint16([]byte{unix.ETH_P_ALL & 0xff, unix.ETH_P_ALL >> 8})) // network byte order
	var s packetSocket
	err := inNamespace(ns, func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: eth0.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	timeout := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s packetSocket) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := unix.Write(s.fd, frame); err != nil {
		t.Fatal(err)
	}
}

// receivedBefore reads frames until one holds the second text, and says whether one held the first.
func (s packetSocket) receivedBefore(t *testing.T, first, second string) bool {
	t.Helper()
	found := false
	buffer := make([]byte, 2048)
	for {
		n, err := unix.Read(s.fd, buffer)
		if err != nil {
			t.Fatalf("waiting for a frame that must arrive: %v", err)
		}
		if bytes.Contains(buffer[:n], []byte(first)) {
			found = true
		}
		if bytes.Contains(buffer[:n], []byte(second)) {
			return found
		}
	}
}

func mac(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ethernet(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	frame := append(append(bytes.Clone(to), from...), byte(kind>>8), byte(kind))
	return append(frame, payload...)
}

// ipv4Packet is a packet of an experimental protocol.
func ipv4Packet(from, to netip.Addr, text string) []byte { return ipv4Of(253, from, to, text) }

// ipv4Of is a packet of any protocol.
func ipv4Of(protocol byte, from, to netip.Addr, text string) []byte {
	p := []byte{0x45, 0, 0, byte(20 + len(text)), 0, 0, 0, 0, 64, protocol, 0, 0}
	p = append(append(p, from.AsSlice()...), to.AsSlice()...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return append(p, text...)
}

// arp is a message that says from what hardware address an IP address speaks. The text is padding.
func arp(operation byte, sender net.HardwareAddr, senderIP netip.Addr, target net.HardwareAddr, targetIP netip.Addr, text string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	p = append(append(p, sender...), senderIP.AsSlice()...)
	p = append(append(p, target...), targetIP.AsSlice()...)
	return append(p, text...)
}

// TestSpoofing puts frames on the wire that a machine's root could send, and looks which of them reach its neighbour.
func TestSpoofing(t *testing.T) {
	n := openTestNetwork(t)
	a, b, c := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11), attachGuest(t, n, 0, 12)
	macA, macB, macC := mac(t, a.nic.MAC), mac(t, b.nic.MAC), mac(t, c.nic.MAC)
	toRouter, broadcast := n.config.routerMAC(), mac(t, "ff:ff:ff:ff:ff:ff")
	router, stranger := a.nic.Gateway, netip.MustParseAddr("10.221.9.9")
	const attempt = "does this arrive?"

	cases := map[string]struct {
		reason  string
		frame   []byte
		arrives bool
	}{
		"Primary":       {"Honest traffic passes.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(a.primary(), b.primary(), attempt)), true},
		"Secondary":     {"So does the pod's.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(a.secondary(), b.secondary(), attempt)), true},
		"NeighbourIP":   {"A machine cannot take another's address.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(c.primary(), b.primary(), attempt)), false},
		"NeighbourBoth": {"… not with its MAC either.", ethernet(toRouter, macC, typeIPv4, ipv4Packet(c.primary(), b.primary(), attempt)), false},
		"NeighbourMAC":  {"Its MAC alone is wrong as well.", ethernet(toRouter, macC, typeIPv4, ipv4Packet(a.primary(), b.primary(), attempt)), false},
		"UnknownIP":     {"There are no addresses but those of the NIC.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(stranger, b.primary(), attempt)), false},
		"RouterIP":      {"A machine is not the router.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(router, b.primary(), attempt)), false},
		"MetadataIP":    {"Nor the metadata service.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(MetadataAddress.Addr(), b.primary(), attempt)), false},
		"WrongTarget":   {"A machine gets only what is for it.", ethernet(toRouter, macA, typeIPv4, ipv4Packet(a.primary(), stranger, attempt)), false},
		"PastTheRouter": {"There is no wire between machines.", ethernet(macB, macA, typeIPv4, ipv4Packet(a.primary(), b.primary(), attempt)), false},
		"Broadcast":     {"A VPC has no broadcast.", ethernet(broadcast, macA, typeIPv4, ipv4Packet(a.primary(), a.broadcast(), attempt)), false},
		"ARP":           {"Machines' ARP ends at the router.", ethernet(broadcast, macA, typeARP, arp(1, macA, a.primary(), nil, b.primary(), attempt)), false},
		"ARPRouter":     {"So none can say that it is the router.", ethernet(broadcast, macA, typeARP, arp(2, macA, router, macB, b.primary(), attempt)), false},
		"IPv6":          {"The VPC has no IPv6.", ethernet(toRouter, macA, typeIPv6, append(make([]byte, 40), attempt...)), false},
		"VLAN":          {"Tags must not hide an address.", ethernet(toRouter, macA, typeVLAN, append([]byte{0, 1, 8, 0}, ipv4Packet(c.primary(), b.primary(), attempt)...)), false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			from, to := openPacketSocket(t, a.ns), openPacketSocket(t, b.ns)
			from.send(t, tc.frame)
			from.send(t, ethernet(toRouter, macA, typeIPv4, ipv4Packet(a.primary(), b.primary(), "this one arrives")))
			if got := to.receivedBefore(t, attempt, "this one arrives"); got != tc.arrives {
				t.Errorf("%s arrived: %t, want %t", tc.reason, got, tc.arrives)
			}
		})
	}
}

// TestStolenAddress lets a machine configure its neighbour's address and talk to the metadata service.
func TestStolenAddress(t *testing.T) {
	n := openTestNetwork(t)
	thief, owner := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11)
	imds, err := n.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, imds)
	addAddress(t, thief.ns, "eth0", netip.PrefixFrom(owner.primary(), 32))
	if seen, err := dial(thief.ns, owner.primary(), MetadataAddress); err == nil {
		t.Errorf("the metadata service took the thief for %s", seen)
	}
	if seen, err := dial(owner.ns, nowhere, MetadataAddress); err != nil || seen != owner.primary().String() {
		t.Errorf("the owner after the theft: seen as %q, %v", seen, err)
	}
}
