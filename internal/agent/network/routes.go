package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routesInterval is how soon a new sandbox of the pod gets its networks. A
	// route goes with the sandbox's interface, and nobody tells.
	routesInterval = time.Second
	// noPodMetric makes a route the last resort.
	noPodMetric = 1 << 20
)

// KeepRoutes leads networks that the VPC sends to this cell on to its pod,
// until ctx ends. A pod in the cell's own network has no address of its own and
// takes care of them itself.
func KeepRoutes(ctx context.Context, pod netip.Addr, networks []netip.Prefix, log *slog.Logger) {
	ticker := time.NewTicker(routesInterval)
	defer ticker.Stop()
	var told string
	for {
		if err := RouteToPod(pod, networks); err != nil && err.Error() != told {
			told = err.Error()
			log.Warn("networks do not lead to the pod", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// RouteToPod does it once. While there is no pod, the networks are unreachable:
// the default route would send the packets back to the VPC, and it would send
// them here again.
func RouteToPod(pod netip.Addr, networks []netip.Prefix) error {
	own := &net.IPNet{IP: pod.AsSlice(), Mask: net.CIDRMask(pod.BitLen(), pod.BitLen())}
	found, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: own}, netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("looking for the pod's interface: %w", err)
	}
	for _, n := range networks {
		dst := &net.IPNet{IP: n.Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())}
		routes := []netlink.Route{{Dst: dst, Type: unix.RTN_UNREACHABLE, Priority: noPodMetric}}
		if len(found) > 0 {
			routes = append(routes, netlink.Route{Dst: dst, Gw: own.IP, LinkIndex: found[0].LinkIndex, Flags: int(netlink.FLAG_ONLINK)})
		}
		for _, r := range routes {
			if err := netlink.RouteReplace(&r); err != nil {
				return fmt.Errorf("routing %s to the pod: %w", n, err)
			}
		}
	}
	return nil
}
