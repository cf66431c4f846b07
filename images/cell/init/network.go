package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lease is what the VPC's DHCP told. It is not renewed: the primary address of an instance's interface is its own for
// as long as it lives.
type lease struct {
	hostname, domain string
	nameservers      []net.IP
}

// awaitLease configures the machine's interface as DHCP says. Without it there is nothing to do, so it does not end
// before.
func awaitLease(ctx context.Context) lease {
	for told := ""; ; time.Sleep(20 * time.Millisecond) {
		l, err := askForLease(ctx)
		if err == nil {
			return l
		}
		if err.Error() != told {
			told = err.Error()
			say("no network yet: " + told)
		}
	}
}

func askForLease(ctx context.Context) (lease, error) {
	link, err := ethernet()
	if err != nil {
		return lease{}, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return lease{}, fmt.Errorf("bringing %s up: %w", link.Attrs().Name, err)
	}
	if err := awaitCarrier(link); err != nil {
		return lease{}, err
	}
	client, err := nclient4.New(link.Attrs().Name, nclient4.WithTimeout(answerPatience), nclient4.WithRetry(5))
	if err != nil {
		return lease{}, fmt.Errorf("asking for an address: %w", err)
	}
	defer client.Close()
	got, err := client.Request(ctx)
	if err != nil {
		return lease{}, fmt.Errorf("asking for an address: %w", err)
	}
	say("has the address " + got.ACK.YourIPAddr.String())
	return configure(link, got.ACK)
}

const (
	// answerPatience is how long an answer may take before the question is asked again: at first, then twice as long.
	answerPatience = 250 * time.Millisecond
	// carrierPatience is how long a card may take to come up.
	carrierPatience = 5 * time.Second
)

// awaitCarrier waits until the card sends: what it is told to send before is lost.
func awaitCarrier(link netlink.Link) error {
	for deadline := time.Now().Add(carrierPatience); ; time.Sleep(2 * time.Millisecond) {
		now, err := netlink.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return fmt.Errorf("looking at %s: %w", link.Attrs().Name, err)
		}
		if now.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not come up", link.Attrs().Name)
		}
	}
}

// ethernet is the first network card.
func ethernet() (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing network cards: %w", err)
	}
	for _, l := range links {
		if l.Type() == "device" && l.Attrs().Flags&net.FlagLoopback == 0 && len(l.Attrs().HardwareAddr) == 6 {
			return l, nil
		}
	}
	return nil, errors.New("there is no network card")
}

func configure(link netlink.Link, ack *dhcpv4.DHCPv4) (lease, error) {
	address := &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: ack.SubnetMask()}}
	if err := netlink.AddrReplace(link, address); err != nil {
		return lease{}, fmt.Errorf("setting the address: %w", err)
	}
	// EC2 says so; ec2local leaves it to the kernel.
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		if err := netlink.LinkSetMTU(link, int(mtu)); err != nil {
			return lease{}, fmt.Errorf("setting the MTU: %w", err)
		}
	}
	if routers := ack.Router(); len(routers) > 0 {
		everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Gw: routers[0]}
		if err := netlink.RouteReplace(route); err != nil {
			return lease{}, fmt.Errorf("setting the default route: %w", err)
		}
	}
	return lease{hostname: ack.HostName(), domain: ack.DomainName(), nameservers: ack.DNS()}, nil
}

// write puts names where programs look for them.
func (l lease) write(root string) error {
	if l.hostname != "" {
		if err := unix.Sethostname([]byte(l.hostname)); err != nil {
			return fmt.Errorf("setting the host name: %w", err)
		}
	}
	var resolver strings.Builder
	if l.domain != "" {
		fmt.Fprintf(&resolver, "search %s\n", l.domain)
	}
	for _, n := range l.nameservers {
		fmt.Fprintf(&resolver, "nameserver %s\n", n)
	}
	for path, content := range map[string]string{"/etc/hostname": l.hostname + "\n", "/etc/resolv.conf": resolver.String()} {
		if err := os.WriteFile(root+path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
