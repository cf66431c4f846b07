// Package network prepares a cell for its pod's own address.
//
// The cell's interface keeps its primary address, at which Kip manages it. The
// second address of the interface is not configured on it: it is the pod's, at
// the far end of a veth pair, and the cell forwards to it and answers for it on
// the wire. Nothing is translated on the way, so the VPC sees the pod's address.
// The pod's own side is made by stock CNI plugins when the kubelet asks for it;
// this package only tells them the addresses.
package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Config is a cell's network.
type Config struct {
	// Interface is the cell's interface to the VPC.
	Interface string
	// Primary is the cell's address on it, Pod the second one, Subnet that of
	// both.
	Primary, Pod netip.Addr
	Subnet       netip.Prefix
	// HostPorts is what host ports are made with.
	HostPorts PacketFilter
	// MTU is the interface's, in bytes, so that a pod can use the VPC's large
	// frames; 0 leaves it to the plugin.
	MTU int
}

// InterfaceOf returns the name and MTU of the interface that has the address,
// which an error names if none has (yet).
func InterfaceOf(address netip.Addr) (name string, mtu int, err error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", 0, fmt.Errorf("listing network interfaces: %w", err)
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return "", 0, fmt.Errorf("listing addresses of %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == address {
				return i.Name, i.MTU, nil
			}
		}
	}
	return "", 0, fmt.Errorf("no network interface has the address %s", address)
}

// Forward lets the cell forward its pod's packets, and answer for the pod's
// address on the wire. It may be repeated.
func (c Config) Forward() error {
	for _, s := range [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv4/conf/" + c.Interface + "/proxy_arp", "1"},
		// By default the kernel waits up to 0.8 s before it answers for
		// another: as long as a whole container start.
		{"net/ipv4/neigh/" + c.Interface + "/proxy_delay", "0"},
	} {
		if err := sysctl(s[0], s[1]); err != nil {
			return fmt.Errorf("letting the cell forward for its pod: %w", err)
		}
	}
	return nil
}

// sysctl sets a kernel parameter unless it has the value already: /proc/sys may
// be read-only and right.
func sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0o644)
}

type object = map[string]any

// WritePodNetwork writes the CNI configuration into the directory, in one step:
// containerd takes up whatever it sees there.
func (c Config) WritePodNetwork(dir string) error {
	content, err := json.MarshalIndent(c.podNetwork(), "", "  ")
	if err != nil {
		return fmt.Errorf("writing the pod's network: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the pod's network: %w", err)
	}
	// containerd reads *.conflist.
	temporary := filepath.Join(dir, "10-kip.new")
	if err := os.WriteFile(temporary, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the pod's network: %w", err)
	}
	if err := os.Rename(temporary, filepath.Join(dir, "10-kip.conflist")); err != nil {
		return fmt.Errorf("writing the pod's network: %w", err)
	}
	return nil
}

func (c Config) podNetwork() object {
	ptp := object{
		"type": "ptp",
		// No address translation: the address is the pod's in the whole VPC.
		"ipMasq": false,
		"ipam": object{
			"type": "static",
			"addresses": []object{{
				// With the subnet's length: the plugin replaces the route that
				// comes with it, and stumbles over a /32, which has none.
				"address": netip.PrefixFrom(c.Pod, c.Subnet.Bits()).String(),
				"gateway": c.Primary.String(),
			}},
			"routes": []object{{"dst": "0.0.0.0/0"}},
		},
	}
	if c.MTU > 0 {
		ptp["mtu"] = c.MTU
	}
	return object{
		"cniVersion": "1.0.0",
		"name":       "kip",
		"plugins": []object{ptp, {
			// For hostPort, which is on the cell's primary address.
			"type": "portmap", "backend": string(c.HostPorts),
			"capabilities": object{"portMappings": true},
		}},
	}
}

// vpcResolver is the address at which every VPC's own resolver can be reached.
const vpcResolver = "169.254.169.253"

// EnsureResolver writes a resolv.conf with the servers, or the VPC's if there
// are none, if the machine has none or an empty one. Where a DHCP client or the
// base image wrote one, with what the VPC's DHCP options say, that stands.
func EnsureResolver(path string, servers []string) error {
	now, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if strings.Contains(string(now), "nameserver") {
		return nil
	}
	if len(servers) == 0 {
		servers = []string{vpcResolver}
	}
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// systemd-resolved's own server, which only the cell itself can reach, and the
// file with the servers behind it.
const (
	stubServer    = "nameserver 127.0.0.53"
	resolvedTruth = "/run/systemd/resolve/resolv.conf"
)

// PodResolver returns the file that pods get a copy of when they are to resolve
// names as their cell does: resolv.conf, unless that leads to a server that a pod
// cannot reach.
func PodResolver(path string) string { return podResolver(path, resolvedTruth) }

func podResolver(path, truth string) string {
	content, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(content), stubServer) {
		return path
	}
	if _, err := os.Stat(truth); err != nil {
		return path
	}
	return truth
}
