package localcluster

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settings are chosen at a cluster's first Up and kept, so that a second Up
// finds the same cluster.
type settings struct {
	Name string `json:"name"`

	// VPC is the cells' network; nothing else on the machine uses it.
	VPC netip.Prefix `json:"vpc"`

	EtcdPort     int `json:"etcdPort"`
	EtcdPeerPort int `json:"etcdPeerPort"`
	KCMPort      int `json:"controllerManagerPort"`
	SchedPort    int `json:"schedulerPort"`
	EC2Port      int `json:"ec2Port"`
	MetricsPort  int `json:"metricsPort"`

	// The key pair by which Kip signs its calls to ec2local.
	AccessKeyID     string `json:"accessKeyID"`
	SecretAccessKey string `json:"secretAccessKey"`
}

const region = "us-west-2"

// firstVPC is the VPC of the first cluster on a machine; further ones take the
// next second octets.
const (
	firstVPC = 98
	lastVPC  = 127
)

// host is the machine's own address in the VPC: the control plane, the
// registry, DNS and Kip listen there.
func (s settings) host() netip.Addr {
	b := s.VPC.Addr().As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], 255, 1})
}

func loadSettings(dir, name string) (settings, error) {
	path := filepath.Join(dir, "cluster.json")
	data, err := os.ReadFile(path)
	if err == nil {
		var s settings
		if err := json.Unmarshal(data, &s); err != nil {
			return s, fmt.Errorf("%s: %w", path, err)
		}
		if s.Name != name {
			return s, fmt.Errorf("%s holds cluster %q, not %q: give it --name %s", dir, s.Name, name, s.Name)
		}
		return s, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return settings{}, err
	}
	s, err := newSettings(name)
	if err != nil {
		return s, err
	}
	data, err = json.MarshalIndent(s, "", "  ")
	if err != nil {
		return s, err
	}
	return s, writeFile(path, data, 0o600)
}

func newSettings(name string) (settings, error) {
	s := settings{Name: name}
	var err error
	if s.VPC, err = freeVPC(); err != nil {
		return s, err
	}
	ports := []*int{&s.EtcdPort, &s.EtcdPeerPort, &s.KCMPort, &s.SchedPort, &s.EC2Port, &s.MetricsPort}
	// All listeners stay open until every port is chosen, so that none is
	// chosen twice.
	for _, p := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return s, fmt.Errorf("looking for a free port: %w", err)
		}
		defer l.Close()
		*p = l.Addr().(*net.TCPAddr).Port
	}
	s.AccessKeyID = "AKIA" + rand.Text()[:16]
	s.SecretAccessKey = rand.Text() + rand.Text()[:14]
	return s, nil
}

// freeVPC is the first 10.N.0.0/16 to which the machine has no route.
func freeVPC() (netip.Prefix, error) {
	// Of all tables: the VPC of hollow cells is in that of the machine's own
	// addresses.
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("reading the machine's routes: %w", err)
	}
	for n := byte(firstVPC); n <= lastVPC; n++ {
		vpc := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n, 0, 0}), 16)
		taken := false
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			ip, _ := netip.AddrFromSlice(r.Dst.IP.To4())
			bits, _ := r.Dst.Mask.Size()
			if bits > 0 && netip.PrefixFrom(ip, bits).Overlaps(vpc) {
				taken = true
			}
		}
		if !taken {
			return vpc, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every network from 10.%d.0.0/16 to 10.%d.0.0/16 is in use on this machine", firstVPC, lastVPC)
}
