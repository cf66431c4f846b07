package vpcnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
)

const (
	routerName   = "lo"    // holds the routers' addresses
	hostPeerName = "host0" // the namespace's end of the link to the host
)

// MetadataAddress is where the metadata service (IMDS) of every machine listens.
var MetadataAddress = netip.MustParseAddrPort("169.254.169.254:80")

// ErrConflict is returned by Open when the host already uses the VPC's addresses for something else.
var ErrConflict = errors.New("the VPC's addresses are in use on this host")

// Config describes a VPC's network.
type Config struct {
	// Cluster names the network: its namespace is kip-<Cluster>-vpc, its link on the host kip-<Cluster>. At most 11
	// lower case letters, digits and dashes.
	Cluster string
	// CIDR is the VPC's range, a /24 or larger. Its last /24 belongs to the link with the host.
	CIDR netip.Prefix
}

// cluster names leave room for "kip-" in an interface name of 15 bytes.
var clusterName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,10}$`)

func (c Config) validate() error {
	if !clusterName.MatchString(c.Cluster) {
		return fmt.Errorf("cluster name %q: want 1 to 11 lower case letters, digits and dashes", c.Cluster)
	}
	if !c.CIDR.IsValid() || !c.CIDR.Addr().Is4() || c.CIDR != c.CIDR.Masked() || c.CIDR.Bits() > 24 {
		return fmt.Errorf("VPC range %s: want an IPv4 network of /24 or larger", c.CIDR)
	}
	return nil
}

// HostAddress is the host's address in the VPC, 10.98.255.1 for 10.98.0.0/16. Host services for machines listen there.
func (c Config) HostAddress() netip.Addr { return c.lastBlock(1) }

// routerAddress is the namespace's end of the link to the host.
func (c Config) routerAddress() netip.Addr { return c.lastBlock(2) }

// lastBlock returns an address of the last /24 of the VPC.
func (c Config) lastBlock(host byte) netip.Addr {
	a := c.CIDR.Addr().As4()
	mask := net.CIDRMask(c.CIDR.Bits(), 32)
	for i := range 3 {
		a[i] |= ^mask[i]
	}
	a[3] = host
	return netip.AddrFrom4(a)
}

// NamespaceName is that of the VPC's network namespace.
func (c Config) NamespaceName() string { return "kip-" + c.Cluster + "-vpc" }

// HostLink is the name of the host's interface into the VPC.
func (c Config) HostLink() string { return "kip-" + c.Cluster }

// routerMAC is the routers' hardware address on every port, so that a machine need not look for its router again when it
// is attached anew.
func (c Config) routerMAC() net.HardwareAddr {
	a := c.CIDR.Addr().As4()
	return net.HardwareAddr{0x02, 0x4b, 0x49, a[0], a[1], a[2]}
}

// ipNet converts a prefix that keeps its host part.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
