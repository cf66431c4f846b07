package vpcnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// interfaceName is what every machine calls its NIC.
const interfaceName = "eth0"

// Attach plugs a machine in: its network namespace gets eth0 with the NIC's hardware and primary address and the
// default route, as if it had been asked for by DHCP. The secondary addresses are let through but not configured. A
// device that an earlier, interrupted Attach left is replaced. The namespace remains the caller's.
func (n *Network) Attach(ctx context.Context, nic machine.NIC, inside netns.NsHandle) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("attaching %s: %w", nic.Device, err)
		}
	}()
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return err
	}
	err = n.plugIn(ctx, nic, func(attrs netlink.LinkAttrs) (netlink.Link, error) {
		port := &netlink.Veth{LinkAttrs: attrs, PeerName: interfaceName, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(inside)}
		return port, n.links.LinkAdd(port)
	})
	if err != nil {
		return err
	}
	if err := configureInside(ctx, nic, inside); err != nil {
		return err
	}
	return awaitUp(ctx, n.links, nic.Device)
}

// plugIn makes the device of a NIC, by add, and all that goes with it on this side.
func (n *Network) plugIn(ctx context.Context, nic machine.NIC, add func(netlink.LinkAttrs) (netlink.Link, error)) error {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return err
	}
	if err := n.deleteDevice(nic.Device); err != nil {
		return err
	}
	if err := n.allow(ctx, nic); err != nil {
		return fmt.Errorf("letting its traffic through: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nic.Device
	attrs.HardwareAddr = n.config.routerMAC()
	port, err := add(attrs)
	if err != nil {
		return fmt.Errorf("adding the device: %w", err)
	}
	err = inNamespace(n.ns, func() error {
		// Neighbours are answered for at once, not after a random while.
		return writeSysctls([2]string{"ipv4/neigh/" + nic.Device + "/proxy_delay", "0"})
	})
	if err != nil {
		return err
	}
	if err := n.links.LinkSetUp(port); err != nil {
		return fmt.Errorf("bringing the device up: %w", err)
	}
	return n.route(nic, port, mac)
}

// awaitUp waits until the kernel's link watcher has noticed that the device has a carrier. What is sent before that is
// lost, and a lost packet costs a second.
func awaitUp(ctx context.Context, links *netlink.Handle, name string) error {
	for {
		link, err := links.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding %s: %w", name, err)
		}
		// A tap has its carrier from the start, which nobody has to notice.
		a := link.Attrs()
		if a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown && a.RawFlags&unix.IFF_LOWER_UP != 0 {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to come up: %w", name, ctx.Err())
		}
	}
}

// route leads the NIC's addresses to its device, and says what hardware address is there: to find out would take time.
// All of that goes with the device.
func (n *Network) route(nic machine.NIC, port netlink.Link, mac net.HardwareAddr) error {
	if err := n.addRouterAddress(nic.Gateway); err != nil {
		return err
	}
	index := port.Attrs().Index
	for _, a := range addresses(nic) {
		err := errors.Join(
			n.links.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}),
			n.links.RouteReplace(&netlink.Route{
				LinkIndex: index, Scope: netlink.SCOPE_LINK, Src: nic.Gateway.AsSlice(), Dst: ipNet(netip.PrefixFrom(a, a.BitLen())),
			}),
		)
		if err != nil {
			return fmt.Errorf("leading %s to it: %w", a, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.policy == nil || !leadsTo(n.policy.Tables, nic.Device) {
		return nil
	}
	return n.setRoutes(*n.policy) // which were waiting for the machine
}

func leadsTo(tables []machine.RouteTable, device string) bool {
	for _, t := range tables {
		for _, d := range t.Routes {
			if d == device {
				return true
			}
		}
	}
	return false
}

func addresses(nic machine.NIC) []netip.Addr {
	return append([]netip.Addr{nic.PrimaryIP.Addr()}, nic.SecondaryIPs...)
}

// configureInside does what the machine's DHCP client would do.
func configureInside(ctx context.Context, nic machine.NIC, inside netns.NsHandle) error {
	links, err := netlink.NewHandleAt(inside, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening rtnetlink in the machine: %w", err)
	}
	defer links.Close()
	loopback, err := links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the machine's loopback interface: %w", err)
	}
	eth0, err := links.LinkByName(interfaceName)
	if err != nil {
		return fmt.Errorf("finding the machine's interface: %w", err)
	}
	err = errors.Join(
		links.LinkSetUp(loopback),
		links.AddrReplace(eth0, &netlink.Addr{IPNet: ipNet(nic.PrimaryIP)}),
		links.LinkSetUp(eth0),
	)
	if err != nil {
		return fmt.Errorf("configuring the machine's interface: %w", err)
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(everywhere), Gw: nic.Gateway.AsSlice()}
	if err := links.RouteReplace(route); err != nil {
		return fmt.Errorf("adding the machine's default route: %w", err)
	}
	return awaitUp(ctx, links, interfaceName)
}

// Detach unplugs a machine, which may be gone already. Its addresses are free for another one afterwards.
func (n *Network) Detach(ctx context.Context, nic machine.NIC) error {
	if err := n.deleteDevice(nic.Device); err != nil {
		return fmt.Errorf("detaching %s: %w", nic.Device, err)
	}
	if _, err := net.ParseMAC(nic.MAC); err == nil { // else Attach did not take it either
		if err := n.forbid(ctx, nic); err != nil {
			return fmt.Errorf("detaching %s: %w", nic.Device, err)
		}
	}
	return nil
}

func (n *Network) deleteDevice(name string) error {
	link, err := n.links.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding the device: %w", err)
	}
	// The device vanishes by itself, some time after the last process of its machine.
	if err := n.links.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting the device: %w", err)
	}
	return nil
}
