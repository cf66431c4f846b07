package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const minimal = "cloud: {aws: {region: us-west-2, subnetID: subnet-1}}\n"

var hash = strings.Repeat("0a", 32)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		reason string
		yaml   string
		errs   []string // parts of the error; none means it is valid
	}{
		"minimal":        {"a region and a subnet are enough", minimal, nil},
		"empty":          {"an empty file names no cloud", "", []string{"cloud: name the cloud"}},
		"unknown top":    {"an unknown key is named", minimal + "clouds: {}\n", []string{`unknown field "clouds"`}},
		"unknown nested": {"an unknown nested key is named", minimal + "cells: {defaultVolumSize: 5Gi}\n", []string{`"cells.defaultVolumSize"`}},
		"case matters":   {"a key in other case is not silently taken", minimal + "cells: {Nametag: x}\n", []string{`Nametag`}},
		"architectures":  {"each once, and only two exist", minimal + "cells: {architectures: [arm64, arm, arm64]}\n", []string{`cells.architectures: "arm"`, `"arm64" is not possible`}},
		"subnets":        {"a wrong subnet is found at start", "cloud: {aws: {region: r, subnetID: 'tag:Name'}}\n", []string{"cloud.aws.subnetID", "tag:KEY=VALUE"}},
		"launch type":    {"there is no fourth", minimal + "cells: {defaultLaunchType: cheap}\n", []string{`cells.defaultLaunchType: "cheap"`, "spot-preferred"}},
		"marketplace": {"a product has a code", "cloud: {aws: {region: r, subnetID: subnet-1, marketplace: {productCode: 'a b', publicKeyVersion: -1}}}\n",
			[]string{`cloud.aws.marketplace.productCode: "a b"`, "cloud.aws.marketplace.publicKeyVersion"}},
		"cache":      {"a server alone is no export", minimal + "cells: {imageCache: {endpoint: fs-1.efs}}\n", []string{`cells.imageCache.endpoint: "fs-1.efs" is neither an NFS server`}},
		"cache dir":  {"a directory is the cell's, from its root on", minimal + "cells: {imageCache: {endpoint: srv/images}}\n", []string{`cells.imageCache.endpoint: "srv/images" is neither`}},
		"cache up":   {"nor may it be another one", minimal + "cells: {imageCache: {endpoint: /srv/../etc}}\n", []string{"cells.imageCache.endpoint", "has .. in its path"}},
		"cache path": {"nor is what is above it", minimal + "cells: {imageCache: {endpoint: 'fs-1.efs:/../etc'}}\n", []string{"cells.imageCache.endpoint", "has .. in its path"}},
		"gone": {"who comes from Kip 1 is told why", minimal + "cells: {cellConfig: {imageCacheEndpoint: a}, useCloudParameterStore: true}\n",
			[]string{`"cells.cellConfig": it configured Kip 1's image cache`, `"cells.useCloudParameterStore": it kept the private keys`}},
		"healthcheck":   {"Kip 1's keys", minimal + "cells: {statusInterval: 10, healthcheck: {cloudAPI: {healthyTimeout: 300, interval: 30}}}\n", nil},
		"health checks": {"whose word counts must be clear", minimal + "cells: {healthcheck: {status: {}, cloudAPI: {}}}\n", []string{"cells.healthcheck: give status or cloudAPI"}},
		"health key":    {"there is no such mode", minimal + "cells: {healthcheck: {cloudApi: {}}}\n", []string{`"cells.healthcheck.cloudApi"`}},
		"health times": {"each has a least value", minimal + "cells: {statusInterval: -1, healthcheck: {cloudAPI: {healthyTimeout: 10, interval: 5}}}\n",
			[]string{"cells.statusInterval: -1", "cells.healthcheck.cloudAPI.healthyTimeout: 10 is less than 30", "cells.healthcheck.cloudAPI.interval: 5"}},
		"status time": {"no kubelet gives signs of life so fast", minimal + "cells: {healthcheck: {status: {healthyTimeout: 5}}}\n", []string{"cells.healthcheck.status.healthyTimeout: 5"}},
		"software": {"one for each architecture", minimal + "cells: {architectures: [arm64, amd64], software: [{architecture: amd64, url: 'https://a/b', sha256: " + hash + "}, " +
			"{architecture: arm64, url: 'http://a:1/b', sha256: " + hash + "}]}\n", nil},
		"no software": {"cells of an architecture would boot into nothing", minimal + "cells: {architectures: [arm64], software: [{architecture: amd64, url: 'https://a/b', sha256: " + hash + "}]}\n",
			[]string{"cells.software: there is none for arm64"}},
		"wrong software": {"it becomes part of a script", minimal + "cells: {software: [{architecture: riscv, url: 'ftp://a/b', sha256: abc}]}\n",
			[]string{`cells.software[0].architecture: "riscv"`, `"ftp://a/b" is not an http or https URL`, "cells.software: there is none for amd64"}},
		"limits": {"each may be left out, and 0 instances is one",
			minimal + "cells: {limits: {instances: 0, hourlyUSD: 2.5, launchesPerMinute: 30, namespaces: [{name: '*', instances: 3}, {name: a, hourlyUSD: '1'}]}}\n", nil},
		"wrong limits": {"a limit that cannot be meant", minimal + "cells: {limits: {instances: -1, hourlyUSD: -1, launchesPerMinute: 0, namespaces: [{instances: 1}, {name: a}, {name: a, hourlyUSD: -2}]}}\n",
			[]string{"cells.limits.instances: -1", "cells.limits.hourlyUSD: -1", "cells.limits.launchesPerMinute: 0", "cells.limits.namespaces[0].name", "cells.limits.namespaces[2].name: a has", "cells.limits.namespaces[2].hourlyUSD: -2"}},
		"standby": {"Kip 1's key", minimal + "cells: {standbyPriceTolerance: 25, standbyCells: [{instanceType: t3.micro, count: 2, spot: false}, {instanceType: t3.micro, count: 1, spot: true}, {instanceType: t3.micro, count: 5, stopped: true}]}\n", nil},
		"wrong standby": {"they cost money, pods or not", minimal + "cells: {standbyPriceTolerance: -1, standbyCells: [{instanceType: 't3.*', count: -1}, {count: 9999}, {instanceType: a, count: 1}, {instanceType: a, count: 2}, {instanceType: b, count: 1, spot: true, stopped: true}]}\n",
			[]string{`cells.standbyCells[0].instanceType: "t3.*"`, "cells.standbyCells[0].count: -1", `cells.standbyCells[1].instanceType: ""`, "cells.standbyCells[1].count: 9999",
				"cells.standbyCells[3]: a is there twice", "cells.standbyCells[4].stopped: spot instances", "cells.standbyPriceTolerance: -1"}},
		"all at once": {"every mistake is reported, not only the first",
			"cloud: {aws: {accessKeyID: a}}\nkubelet: {clusterDNS: [x]}\ncells: {extraCIDRs: [10.0.0.0, 'fd00::/8', 10.1.2.3/8], defaultVolumeSize: 1Mi, registryMirrors: [{endpoint: nope}]}\n",
			[]string{"cloud.aws.region", "secretAccessKey", "give subnetID", `"x" is not an IP`, `extraCIDRs: "10.0.0.0"`, `extraCIDRs: "fd00::/8"`, `extraCIDRs: "10.1.2.3/8"`, "defaultVolumeSize", "endpoint", "hosts"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.yaml))
			if len(tc.errs) == 0 {
				if err != nil {
					t.Fatalf("%s: %v", tc.reason, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("%s: no error", tc.reason)
			}
			for _, part := range tc.errs {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: error %q lacks %q", tc.reason, err, part)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte(minimal + "cells: {bootTimeout: 90s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Kubelet.Pods.Value(); got != 5000 {
		t.Errorf("pods = %d", got)
	}
	if c.Cells.BootTimeout.Duration != 90*time.Second {
		t.Errorf("bootTimeout = %v", c.Cells.BootTimeout)
	}
	if c.Kubelet.ClusterDomain != "cluster.local" || c.Cells.Nametag != "kip" {
		t.Errorf("texts = %q, %q", c.Kubelet.ClusterDomain, c.Cells.Nametag)
	}
}

func TestHealthDefaults(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, yaml string
		byCloud      bool
		timeout      time.Duration
	}{
		"nothing":       {"by its own signs of life", "", false, 90 * time.Second},
		"status":        {"the same", "cells: {healthcheck: {status: {}}}\n", false, 90 * time.Second},
		"never":         {"0 is for ever, not the default", "cells: {healthcheck: {status: {healthyTimeout: 0}}}\n", false, 0},
		"cloud":         {"EC2 itself takes some minutes", "cells: {healthcheck: {cloudAPI: {}}}\n", true, 3 * time.Minute},
		"cloud, slower": {"what is given counts", "cells: {healthcheck: {cloudAPI: {healthyTimeout: 600}}}\n", true, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(minimal + tc.yaml))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Cells.Healthcheck.HealthyTimeout(); got != tc.timeout || (c.Cells.Healthcheck.CloudAPI != nil) != tc.byCloud || c.Cells.StatusInterval != 5 {
				t.Errorf("%s: %s, %+v", tc.reason, got, c.Cells)
			}
		})
	}
}

func TestInstanceDefaults(t *testing.T) {
	c, err := Parse([]byte(minimal + "cells: {defaultLaunchType: spot-preferred, defaultVolumeSize: 1500Mi, architectures: [arm64, amd64]}\n" +
		"kubelet: {labels: {topology.kubernetes.io/zone: us-west-2b}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := instancetype.Defaults{
		CapacityTypes: []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand},
		Architectures: []string{"arm64", "amd64"}, Zone: "us-west-2b", VolumeGiB: 2,
	}
	if diff := cmp.Diff(want, c.InstanceDefaults()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseSubnets(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, text string
		want         Subnets
		err          string // part of it
	}{
		"IDs":        {"any usual separator", "subnet-1, subnet-2\nsubnet-3", Subnets{IDs: []string{"subnet-1", "subnet-2", "subnet-3"}}, ""},
		"one tag":    {"values may hold spaces", "tag:Name=for cells", Subnets{Tags: map[string][]string{"Name": {"for cells"}}}, ""},
		"tags":       {"several keys, and several values of one", "tag:kubernetes.io/role/internal-elb=1, tag:Name=a-*,tag:Name=b", Subnets{Tags: map[string][]string{"kubernetes.io/role/internal-elb": {"1"}, "Name": {"a-*", "b"}}}, ""},
		"equal sign": {"a value may hold one", "tag:a=b=c", Subnets{Tags: map[string][]string{"a": {"b=c"}}}, ""},
		"both":       {"nobody would know which holds", "subnet-1, tag:Name=a", Subnets{}, `"subnet-1" is not a tag`},
		"no value":   {"any value is a star", "tag:Name", Subnets{}, `"tag:Name" is not of the form`},
		"empty":      {"an empty value is a mistake", "tag:Name=", Subnets{}, `"tag:Name=" is not of the form`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSubnets(tc.text)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("%s: error %v, want %q", tc.reason, err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
