package vpcnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// TestDHCP asks from a machine for its address, which it has forgotten.
func TestDHCP(t *testing.T) {
	n := openTestNetwork(t)
	g := attachGuest(t, n, 0, 7)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- n.ServeDHCP(ctx, func(device string) (Lease, bool) {
			return Lease{NIC: g.nic, Hostname: "ip-7", Nameserver: n.config.HostAddress()}, device == g.nic.Device
		}, slog.Default())
	}()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	var client *nclient4.Client
	if err := inNamespace(g.ns, func() (err error) {
		client, err = nclient4.New(interfaceName, nclient4.WithTimeout(time.Second), nclient4.WithRetry(20))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lease, err := client.Request(ctx)
	if err != nil {
		t.Fatal(err)
	}
	describe := func(m *dhcpv4.DHCPv4) string {
		return fmt.Sprintln(m.MessageType(), m.YourIPAddr, net.IP(m.SubnetMask()), m.Router(), m.DNS(), m.HostName(), m.IPAddressLeaseTime(0))
	}
	const want = " 10.221.0.7 255.255.240.0 [10.221.0.1] [10.221.255.1] ip-7 1h0m0s\n"
	if diff := cmp.Diff([]string{"OFFER" + want, "ACK" + want}, []string{describe(lease.Offer), describe(lease.ACK)}); diff != "" {
		t.Errorf("the lease (-want +got):\n%s", diff)
	}
	// An address that is not its own is refused, whoever it is of.
	request, err := dhcpv4.NewDiscovery(client.InterfaceAddr(), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 221, 0, 8))))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.SendAndRead(ctx, client.RemoteAddr(), request, nil)
	if err != nil || answer.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("the answer to a request of another's address is %v, %v", answer, err)
	}
}

// TestTap plugs in a machine that emulates its network card, and has it look for its router.
func TestTap(t *testing.T) {
	n := openTestNetwork(t)
	nic := machine.NIC{
		MAC: "02:00:00:00:07:07", Device: "i-tap", Gateway: netip.MustParseAddr("10.221.0.1"),
		PrimaryIP: netip.MustParsePrefix("10.221.0.7/20"), SecondaryIPs: []netip.Addr{netip.MustParseAddr("10.221.1.7")},
	}
	tap, err := n.AttachTap(t.Context(), nic)
	if err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		t.Fatal(err)
	}
	const virtioHeader = 10
	frame := bytes.NewBuffer(make([]byte, virtioHeader))
	frame.Write(slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{0x08, 0x06}))
	frame.Write([]byte{0, 1, 8, 0, 6, 4, 0, 1}) // ARP request, Ethernet and IPv4
	frame.Write(slices.Concat(mac, nic.PrimaryIP.Addr().AsSlice(), make([]byte, 6), nic.Gateway.AsSlice()))
	if _, err := tap.Write(frame.Bytes()); err != nil {
		t.Fatal(err)
	}
	if router := awaitARP(t, tap, virtioHeader); router.String() != n.config.routerMAC().String() {
		t.Errorf("the router says it is %s, want %s", router, n.config.routerMAC())
	}
	// The device goes with the machine.
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.links.LinkByName(nic.Device); err == nil {
		t.Error("the device is still there")
	}
	if err := n.Detach(t.Context(), nic); err != nil {
		t.Error(err)
	}
}

// awaitARP returns the hardware address that an ARP reply tells.
func awaitARP(t *testing.T, tap *os.File, header int) net.HardwareAddr {
	t.Helper()
	frame := make([]byte, 2048)
	for {
		size, err := tap.Read(frame)
		if err != nil {
			t.Fatal(err)
		}
		arp := frame[min(size, header+14):size]
		if len(arp) >= 14 && binary.BigEndian.Uint16(frame[header+12:]) == 0x0806 && binary.BigEndian.Uint16(arp[6:]) == 2 {
			return net.HardwareAddr(arp[8:14])
		}
	}
}
