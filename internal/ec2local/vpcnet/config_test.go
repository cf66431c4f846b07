package vpcnet

import (
	"net/netip"
	"strings"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	cidr := netip.MustParsePrefix("10.98.0.0/16")
	cases := map[string]struct {
		reason string
		config Config
		want   string // part of the error; empty for none
	}{
		"Usual": {
			reason: "The default cluster's network is fine.",
			config: Config{Cluster: "kip", CIDR: cidr},
		},
		"LongName": {
			reason: "kip-<cluster> must be an interface name, 15 bytes at most.",
			config: Config{Cluster: "twelve-bytes", CIDR: cidr},
			want:   "cluster name",
		},
		"EvilName": {
			reason: "The name is part of a path.",
			config: Config{Cluster: "../x", CIDR: cidr},
			want:   "cluster name",
		},
		"SmallRange": {
			reason: "The last /24 is needed for the link with the host.",
			config: Config{Cluster: "kip", CIDR: netip.MustParsePrefix("10.98.0.0/25")},
			want:   "VPC range",
		},
		"HostBits": {
			reason: "A range must be a network's address.",
			config: Config{Cluster: "kip", CIDR: netip.MustParsePrefix("10.98.0.1/16")},
			want:   "VPC range",
		},
		"IPv6": {
			reason: "The VPC has IPv4 only.",
			config: Config{Cluster: "kip", CIDR: netip.MustParsePrefix("fd00::/16")},
			want:   "VPC range",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := tc.config.validate()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%s: got %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	cases := map[string]struct{ host, router string }{
		"10.98.0.0/16":   {"10.98.255.1", "10.98.255.2"},
		"10.0.0.0/8":     {"10.255.255.1", "10.255.255.2"},
		"172.16.4.0/22":  {"172.16.7.1", "172.16.7.2"},
		"192.168.3.0/24": {"192.168.3.1", "192.168.3.2"},
	}
	for cidr, want := range cases {
		c := Config{CIDR: netip.MustParsePrefix(cidr)}
		if got := c.HostAddress().String(); got != want.host {
			t.Errorf("host address in %s: got %s, want %s", cidr, got, want.host)
		}
		if got := c.routerAddress().String(); got != want.router {
			t.Errorf("router address in %s: got %s, want %s", cidr, got, want.router)
		}
	}
}
