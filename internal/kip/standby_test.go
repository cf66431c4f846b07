package kip

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/standby"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const standbyConfig = "cloud: {aws: {region: us-west-2, subnetID: subnet-1}}\n"

func parse(t *testing.T, cells string) *config.Config {
	t.Helper()
	cfg, err := config.Parse([]byte(standbyConfig + "cells: {" + cells + "}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestStandbyPools(t *testing.T) {
	catalogue, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	region, err := catalogue.Region("us-west-2")
	if err != nil {
		t.Fatal(err)
	}
	got, err := standbyPools(parse(t, "standbyCells: [{instanceType: T3.nano, count: 2}, {instanceType: t4g.nano, count: 1, spot: true}, {instanceType: g4dn.12xlarge, count: 0}, {instanceType: t3.nano, count: 5, stopped: true}]"), catalogue, region)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]standby.Pool{
		{InstanceType: "t3.nano", Architecture: "amd64", CapacityType: v1beta1.OnDemand, Count: 2},
		{InstanceType: "t4g.nano", Architecture: "arm64", CapacityType: v1beta1.Spot, Count: 1},
		{InstanceType: "g4dn.12xlarge", Architecture: "amd64", CapacityType: v1beta1.OnDemand, GPUs: 4},
		{InstanceType: "t3.nano", Architecture: "amd64", CapacityType: v1beta1.OnDemand, Count: 5, Stopped: true},
	}, got); diff != "" {
		t.Error(diff)
	}
	_, err = standbyPools(parse(t, "standbyCells: [{instanceType: t3.nano, count: 1}, {instanceType: t3.pico, count: 1}]"), catalogue, region)
	if err == nil || !strings.Contains(err.Error(), "cells.standbyCells[1].instanceType") {
		t.Errorf("a type that does not exist: %v", err)
	}
}

// TestFingerprint: cells that wait are kept as long as they are what would be
// launched, and no longer.
func TestFingerprint(t *testing.T) {
	hash := func(cfg *config.Config, userData, image string) string {
		t.Helper()
		f, err := fingerprint(cfg, func(*v1beta1.Cell) ([]byte, error) { return []byte(userData), nil }, image)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	base := hash(parse(t, "nametag: a"), "data", "ami-1")
	for name, tc := range map[string]struct {
		reason string
		got    string
		same   bool
	}{
		"nothing":    {"a restart of Kip", hash(parse(t, "nametag: a"), "data", "ami-1"), true},
		"health":     {"what Kip itself does", hash(parse(t, "nametag: a, statusInterval: 9, bootTimeout: 1m, standbyPriceTolerance: 5"), "data", "ami-1"), true},
		"user data":  {"the agent, its software, cloud-init", hash(parse(t, "nametag: a"), "other", "ami-1"), false},
		"image":      {"a newer one matches", hash(parse(t, "nametag: a"), "data", "ami-2"), false},
		"groups":     {"they are given at the launch", hash(parse(t, "nametag: a, extraSecurityGroups: [sg-1]"), "data", "ami-1"), false},
		"volume":     {"it has its size", hash(parse(t, "nametag: a, defaultVolumeSize: 20Gi"), "data", "ami-1"), false},
		"addresses":  {"public ones are given at the launch", hash(parse(t, "nametag: a, privateIPOnly: true"), "data", "ami-1"), false},
		"permission": {"so is the profile", hash(parse(t, "nametag: a, defaultIAMPermissions: p"), "data", "ami-1"), false},
	} {
		if (tc.got == base) != tc.same {
			t.Errorf("%s: same = %t: %s", name, tc.got == base, tc.reason)
		}
	}
}
