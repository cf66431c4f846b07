package vpcnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Network is an open VPC network. Its methods may be called from many goroutines; all of them may be repeated.
type Network struct {
	config Config
	ns     netns.NsHandle
	links  *netlink.Handle // rtnetlink inside the namespace

	mu        sync.Mutex // serializes nft and routes, and guards what follows
	rules     map[string]knftables.Interface
	policy    *machine.Policy // what is in force for certain; nil before the first Enforce and after one that failed
	enforced  ruleset         // the same in nftables' words
	unchecked map[string]bool // devices
	listeners []net.Listener
}

// Open makes the network, or takes up the one that is there and completes it. It needs root and the nft program. It
// fails with ErrConflict, having changed nothing, if the host already has addresses or routes within the VPC's range.
func Open(ctx context.Context, c Config) (_ *Network, err error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("opening the VPC's network: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening the VPC's network %s: %w", c.CIDR, err)
		}
	}()
	if err := checkConflicts(c); err != nil {
		return nil, err
	}
	ns, created, err := openNamespace(c.NamespaceName())
	if err != nil {
		return nil, err
	}
	n := &Network{config: c, ns: ns, rules: map[string]knftables.Interface{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.links, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("opening rtnetlink in the namespace: %w", err)
	}
	if err := n.setUpHostLink(created); err != nil {
		return nil, err
	}
	if err := inNamespace(ns, setSysctls); err != nil {
		return nil, err
	}
	if err := n.setUpRouter(); err != nil {
		return nil, err
	}
	if err := n.setUpRules(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// checkConflicts looks for addresses and routes of the host that the VPC would shadow.
func checkConflicts(c Config) error {
	own := 0
	if link, err := netlink.LinkByName(c.HostLink()); err == nil {
		own = link.Attrs().Index
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing the host's addresses: %w", err)
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		if a.LinkIndex != own && c.CIDR.Contains(ip) {
			return fmt.Errorf("%w: it has the address %s", ErrConflict, a.IPNet)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing the host's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == own {
			continue
		}
		ip, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		if ones, _ := r.Dst.Mask.Size(); ones >= c.CIDR.Bits() && c.CIDR.Contains(ip) {
			return fmt.Errorf("%w: it has a route for %s", ErrConflict, r.Dst)
		}
	}
	return nil
}

// setUpHostLink makes the one link between host and namespace, and the host's route through it.
func (n *Network) setUpHostLink(fresh bool) error {
	host, hostErr := netlink.LinkByName(n.config.HostLink())
	_, peerErr := n.links.LinkByName(hostPeerName)
	if fresh || hostErr != nil || peerErr != nil {
		if hostErr == nil { // its other end was in a namespace that is gone, or it never got there
			if err := netlink.LinkDel(host); err != nil {
				return fmt.Errorf("deleting the leftover link %s: %w", n.config.HostLink(), err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.config.HostLink()
		link := &netlink.Veth{LinkAttrs: attrs, PeerName: hostPeerName, PeerNamespace: netlink.NsFd(n.ns)}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("adding the link %s: %w", n.config.HostLink(), err)
		}
	}

	host, err := netlink.LinkByName(n.config.HostLink())
	if err != nil {
		return fmt.Errorf("finding the link %s: %w", n.config.HostLink(), err)
	}
	peer, err := n.links.LinkByName(hostPeerName)
	if err != nil {
		return fmt.Errorf("finding the link to the host: %w", err)
	}
	err = errors.Join(
		netlink.AddrReplace(host, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.config.HostAddress(), 30))}),
		netlink.LinkSetUp(host),
		n.links.AddrReplace(peer, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.config.routerAddress(), 30))}),
		n.links.LinkSetUp(peer),
	)
	if err != nil {
		return fmt.Errorf("configuring the link %s: %w", n.config.HostLink(), err)
	}
	route := &netlink.Route{LinkIndex: host.Attrs().Index, Dst: ipNet(n.config.CIDR), Gw: n.config.routerAddress().AsSlice()}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("adding the host's route to %s: %w", n.config.CIDR, err)
	}
	return nil
}

// setUpRouter makes the namespace the router that machines know, and their metadata service. There is no way to what is
// in the VPC and no machine's.
func (n *Network) setUpRouter() error {
	router, err := n.links.LinkByName(routerName)
	if err == nil {
		err = n.links.LinkSetUp(router)
	}
	if err != nil {
		return fmt.Errorf("bringing the router up: %w", err)
	}
	if err := n.addRouterAddress(MetadataAddress.Addr()); err != nil {
		return err
	}
	nobody := &netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: ipNet(n.config.CIDR)}
	if err := n.links.RouteReplace(nobody); err != nil {
		return fmt.Errorf("leading the rest of %s nowhere: %w", n.config.CIDR, err)
	}
	return nil
}

// addRouterAddress makes the router answer to an address on all ports.
func (n *Network) addRouterAddress(a netip.Addr) error {
	router, err := n.links.LinkByName(routerName)
	if err == nil {
		err = n.links.AddrReplace(router, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))})
	}
	if err != nil {
		return fmt.Errorf("giving the router the address %s: %w", a, err)
	}
	return nil
}

// setSysctls runs inside the namespace. New devices take over what "default" says.
func setSysctls() error {
	return writeSysctls(
		[2]string{"ipv4/ip_forward", "1"},
		// Machines of a subnet ask for each other's hardware address and get the router's.
		[2]string{"ipv4/conf/default/proxy_arp", "1"},
		// Wrong sources are stopped by the rules.
		[2]string{"ipv4/conf/all/rp_filter", "0"},
		[2]string{"ipv4/conf/default/rp_filter", "0"},
		[2]string{"ipv4/conf/" + hostPeerName + "/rp_filter", "0"},
		[2]string{"ipv6/conf/all/disable_ipv6", "1"},
		[2]string{"ipv6/conf/default/disable_ipv6", "1"},
	)
}

// writeSysctls writes those of them that this kernel has: it may lack IPv6.
func writeSysctls(sysctls ...[2]string) error {
	for _, s := range sysctls {
		path := filepath.Join("/proc/sys/net", s[0])
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := os.WriteFile(path, []byte(s[1]), 0o644); err != nil {
			return fmt.Errorf("setting %s: %w", path, err)
		}
	}
	return nil
}

// ListenIMDS listens at MetadataAddress inside the VPC. The remote address of a connection is certainly one of the
// addresses of the NIC of the machine that made it. The connections are plain *net.TCPConn; set the IP time-to-live on
// them to enforce a hop limit.
func (n *Network) ListenIMDS() (net.Listener, error) {
	var l net.Listener
	err := inNamespace(n.ns, func() (err error) {
		l, err = net.Listen("tcp4", MetadataAddress.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening for metadata requests: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = append(n.listeners, l)
	return l, nil
}

// Close lets go of the network, which goes on working. It closes the listeners.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.listeners {
		_ = l.Close() // often closed already by its server
	}
	n.listeners = nil
	if n.links != nil {
		n.links.Close()
		n.links = nil
	}
	if n.ns.IsOpen() {
		return n.ns.Close()
	}
	return nil
}

// Destroy closes the network and removes it. Machines that are still attached lose their interface.
func (n *Network) Destroy() error {
	return errors.Join(n.Close(), Destroy(n.config))
}

// Destroy removes the network that Open made, or what there is of it. A network that does not exist is no error.
func Destroy(c Config) error {
	if err := c.validate(); err != nil {
		return fmt.Errorf("removing the VPC's network: %w", err)
	}
	link, err := netlink.LinkByName(c.HostLink())
	var notFound netlink.LinkNotFoundError
	switch {
	case err == nil:
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("removing the link %s: %w", c.HostLink(), err)
		}
	case !errors.As(err, &notFound):
		return fmt.Errorf("finding the link %s: %w", c.HostLink(), err)
	}
	return deleteNamespace(c.NamespaceName())
}
