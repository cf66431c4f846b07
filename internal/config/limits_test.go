package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/cell/limits"
)

func TestLaunchLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, yaml string
		want         limits.Limits
	}{
		"none": {"what is not given is not limited", "{}", limits.Limits{}},
		"all": {"dollars are exact to the millionth", "{instances: 7, hourlyUSD: 2.125001, launchesPerMinute: 30, namespaces: [{name: '*', hourlyUSD: 100m}, {name: a, instances: 0}]}",
			limits.Limits{
				Caps: limits.Caps{Instances: new(7), HourlyMicroUSD: new(int64(2_125_001))}, LaunchesPerMinute: new(30),
				Namespaces: map[string]limits.Caps{"*": {HourlyMicroUSD: new(int64(100_000))}, "a": {Instances: new(0)}},
			}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(minimal + "cells: {limits: " + tc.yaml + "}\n"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, c.Cells.Limits.Launches()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
