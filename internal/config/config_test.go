package config

import (
	"strings"
	"testing"
	"time"
)

const minimal = "cloud: {aws: {region: us-west-2, subnetID: subnet-1}}\n"

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

func TestSubnetIDs(t *testing.T) {
	a := AWS{SubnetID: "subnet-1, subnet-2\nsubnet-3"}
	if got := strings.Join(a.SubnetIDs(), "|"); got != "subnet-1|subnet-2|subnet-3" {
		t.Error(got)
	}
}
