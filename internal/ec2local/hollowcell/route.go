package hollowcell

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddRoute makes every address of the VPC one of this network namespace's own. It needs root, and may be repeated.
func AddRoute(vpc netip.Prefix) error {
	route, err := localRoute(vpc)
	if err == nil {
		err = netlink.RouteReplace(route)
	}
	if err != nil {
		return fmt.Errorf("taking the addresses of %s: %w", vpc, err)
	}
	return nil
}

// RemoveRoute takes back what AddRoute did, if it did.
func RemoveRoute(vpc netip.Prefix) error {
	route, err := localRoute(vpc)
	if err == nil {
		err = netlink.RouteDel(route)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("giving up the addresses of %s: %w", vpc, err)
	}
	return nil
}

func localRoute(vpc netip.Prefix) (*netlink.Route, error) {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		LinkIndex: loopback.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		Dst: &net.IPNet{IP: vpc.Masked().Addr().AsSlice(), Mask: net.CIDRMask(vpc.Bits(), vpc.Addr().BitLen())},
	}, nil
}
