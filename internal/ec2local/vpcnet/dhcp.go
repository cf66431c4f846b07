package vpcnet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// leaseTime is what EC2 leases addresses for. They are the instance's for life all the same.
const leaseTime = time.Hour

// Lease is what a machine is told of its network.
type Lease struct {
	NIC        machine.NIC
	Hostname   string
	Nameserver netip.Addr // optional
}

// ServeDHCP tells machines that ask for it the primary address of their NIC, until ctx ends. Who asks is known by the
// device that the question comes in at. As in EC2, secondary addresses are not told.
func (n *Network) ServeDHCP(ctx context.Context, leaseOf func(device string) (Lease, bool), log *slog.Logger) error {
	var socket net.PacketConn
	err := inNamespace(n.ns, func() (err error) {
		// Before the socket has an address, so that no packet comes without the device that it came in at.
		tellDevice := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			if err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) }); err != nil {
				return err
			}
			return set
		}}
		socket, err = tellDevice.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", dhcpv4.ServerPort))
		return err
	})
	if err != nil {
		return fmt.Errorf("listening for DHCP: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })()
	defer socket.Close()
	conn := ipv4.NewPacketConn(socket)
	if err := conn.SetControlMessage(ipv4.FlagInterface, true); err != nil { // for the package's own knowledge
		return fmt.Errorf("listening for DHCP: %w", err)
	}
	packet := make([]byte, 4096)
	for {
		size, from, _, err := conn.ReadFrom(packet)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading DHCP requests: %w", err)
		}
		if err := n.serveDHCP(conn, packet[:size], from, leaseOf); err != nil {
			log.Warn("a DHCP request gets no answer", "error", err)
		}
	}
}

func (n *Network) serveDHCP(conn *ipv4.PacketConn, packet []byte, from *ipv4.ControlMessage, leaseOf func(string) (Lease, bool)) error {
	request, err := dhcpv4.FromBytes(packet)
	if err != nil {
		return fmt.Errorf("reading a DHCP request: %w", err)
	}
	link, err := n.links.LinkByIndex(from.IfIndex)
	if err != nil {
		return fmt.Errorf("finding device %d: %w", from.IfIndex, err)
	}
	device := link.Attrs().Name
	lease, ok := leaseOf(device)
	if !ok {
		return fmt.Errorf("no machine has the device %s", device)
	}
	answer, err := answerDHCP(request, lease)
	if answer == nil || err != nil {
		return err
	}
	// A machine that has its address already, and renews it, asks from there.
	to := request.ClientIPAddr
	if to.IsUnspecified() {
		to = net.IPv4bcast
	}
	out := &ipv4.ControlMessage{IfIndex: from.IfIndex, Src: lease.NIC.Gateway.AsSlice()}
	if _, err := conn.WriteTo(answer.ToBytes(), out, &net.UDPAddr{IP: to, Port: dhcpv4.ClientPort}); err != nil {
		return fmt.Errorf("answering a DHCP request at %s: %w", device, err)
	}
	return nil
}

// answerDHCP makes the answer to a request, or nil where none is due.
func answerDHCP(request *dhcpv4.DHCPv4, l Lease) (*dhcpv4.DHCPv4, error) {
	kind := dhcpv4.MessageTypeAck
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if wanted := request.RequestedIPAddress(); wanted != nil && !wanted.Equal(l.NIC.PrimaryIP.Addr().AsSlice()) {
			kind = dhcpv4.MessageTypeNak
		}
	default:
		return nil, nil
	}
	router := net.IP(l.NIC.Gateway.AsSlice())
	options := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(router))}
	if kind != dhcpv4.MessageTypeNak {
		options = append(options,
			dhcpv4.WithYourIP(l.NIC.PrimaryIP.Addr().AsSlice()),
			dhcpv4.WithNetmask(net.CIDRMask(l.NIC.PrimaryIP.Bits(), 32)),
			dhcpv4.WithRouter(router),
			dhcpv4.WithLeaseTime(uint32(leaseTime.Seconds())),
			dhcpv4.WithOption(dhcpv4.OptHostName(l.Hostname)),
		)
		if l.Nameserver.IsValid() {
			options = append(options, dhcpv4.WithDNS(l.Nameserver.AsSlice()))
		}
	}
	answer, err := dhcpv4.NewReplyFromRequest(request, options...)
	if err != nil {
		return nil, fmt.Errorf("answering a DHCP request: %w", err)
	}
	return answer, nil
}
