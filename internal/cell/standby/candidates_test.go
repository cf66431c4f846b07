package standby

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

func TestCandidates(t *testing.T) {
	private, public := true, false
	// What would be launched for the small pod of these tests is a t3a.nano, the
	// cheapest of its region; t3.nano costs a tenth more, t3.small several times as much.
	small := Pool{InstanceType: "t3.small", Architecture: instancetype.AMD64, CapacityType: v1beta1.OnDemand, Count: 1}
	cheapest := Pool{InstanceType: "t3a.nano", Architecture: instancetype.AMD64, CapacityType: v1beta1.OnDemand, Count: 1}
	spot := Pool{InstanceType: "t3a.nano", Architecture: instancetype.AMD64, CapacityType: v1beta1.Spot, Count: 1}
	asleep := Pool{InstanceType: "t3a.nano", Architecture: instancetype.AMD64, CapacityType: v1beta1.OnDemand, Count: 1, Stopped: true}
	gpus := Pool{InstanceType: "g4dn.12xlarge", Architecture: instancetype.AMD64, CapacityType: v1beta1.OnDemand, Count: 1, GPUs: 4}

	for name, tc := range map[string]struct {
		reason    string
		pools     []Pool
		tolerance float64
		pod       func(*v1beta1.CellSpec)
		then      func(*world)
		want      []string // instance types, the best first
	}{
		"the same":       {reason: "it is what would be launched", pools: []Pool{cheapest}, want: []string{"t3a.nano"}},
		"dearer":         {reason: "nobody allowed to pay more", pools: []Pool{small}},
		"tolerated":      {reason: "up to ten times the price", pools: []Pool{small}, tolerance: 9, want: []string{"t3.small"}},
		"cheapest first": {reason: "of several that are tolerated", pools: []Pool{small, cheapest}, tolerance: 9, want: []string{"t3a.nano", "t3.small"}},
		"too small": {reason: "a pod does not fit because it is tolerated", pools: []Pool{cheapest}, tolerance: 9,
			pod: func(s *v1beta1.CellSpec) { s.Requirements.Memory = resource.MustParse("4Gi") }},
		"asked by type": {reason: "what the pod names would be launched", pools: []Pool{small}, want: []string{"t3.small"},
			pod: func(s *v1beta1.CellSpec) { s.Requirements.InstanceTypes = []string{"t3.small"} }},
		"another type": {reason: "the pod names one", pools: []Pool{cheapest}, tolerance: 9,
			pod: func(s *v1beta1.CellSpec) { s.Requirements.InstanceTypes = []string{"t3.small"} }},
		"another zone": {reason: "the pod names one", pools: []Pool{cheapest},
			pod: func(s *v1beta1.CellSpec) { s.Requirements.Zones = []string{"us-west-2c"} }},
		"spot for on-demand": {reason: "a pod must be made for spot", pools: []Pool{spot}, tolerance: 9},
		"spot for spot": {reason: "it is", pools: []Pool{spot}, want: []string{"t3a.nano"},
			pod: func(s *v1beta1.CellSpec) {
				s.Requirements.CapacityTypes, s.Requirements.InstanceTypes = []v1beta1.CapacityType{v1beta1.Spot}, []string{"t3a.nano"}
			}},
		"surplus CPU": {reason: "the instance was launched without credits to spend", pools: []Pool{small}, tolerance: 9,
			pod: func(s *v1beta1.CellSpec) {
				s.Requirements.CPU, s.Requirements.InstanceTypes = resource.MustParse("1900m"), []string{"t3.small"}
			}},
		"a larger volume": {reason: "a volume has its size", pools: []Pool{cheapest}, pod: func(s *v1beta1.CellSpec) { s.Requirements.VolumeGiB = 11 }},
		"a smaller volume": {reason: "more is no harm", pools: []Pool{cheapest}, want: []string{"t3a.nano"},
			pod: func(s *v1beta1.CellSpec) { s.Requirements.VolumeGiB = 5 }},
		"groups":       {reason: "they are given at the launch", pools: []Pool{cheapest}, pod: func(s *v1beta1.CellSpec) { s.Instance.SecurityGroups = []string{"sg-1"} }},
		"profile":      {reason: "a role nobody else may have", pools: []Pool{cheapest}, pod: func(s *v1beta1.CellSpec) { s.Instance.InstanceProfile = "reader" }},
		"routes":       {reason: "the agent learns them at its start", pools: []Pool{cheapest}, pod: func(s *v1beta1.CellSpec) { s.Instance.Routes = []string{"10.0.0.0/8"} }},
		"private":      {reason: "cells have public addresses", pools: []Pool{cheapest}, pod: func(s *v1beta1.CellSpec) { s.Instance.PrivateIPOnly = &private }},
		"public":       {reason: "as cells are", pools: []Pool{cheapest}, want: []string{"t3a.nano"}, pod: func(s *v1beta1.CellSpec) { s.Instance.PrivateIPOnly = &public }},
		"GPUs":         {reason: "all that the type has", pools: []Pool{gpus}, want: []string{"g4dn.12xlarge"}, pod: func(s *v1beta1.CellSpec) { s.Requirements.GPUs = 4 }},
		"fewer GPUs":   {reason: "the agent hands out all", pools: []Pool{gpus}, tolerance: 9, pod: func(s *v1beta1.CellSpec) { s.Requirements.GPUs = 1 }},
		"no GPUs":      {reason: "they would be wasted", pools: []Pool{gpus}, tolerance: 9, pod: func(s *v1beta1.CellSpec) { s.Requirements.CPU = resource.MustParse("40") }},
		"cut off":      {reason: "its kubelet would not hear of the pod", pools: []Pool{cheapest}, then: func(w *world) { w.unreachable[w.cells()[0].Name] = true }},
		"of yesterday": {reason: "the configuration is another now", pools: []Pool{cheapest}, then: func(w *world) { w.kip.current["t3a.nano"] = "second" }},
		"booting": {reason: "to launch is as quick", pools: []Pool{cheapest}, then: func(w *world) {
			w.change(&w.cells()[0], func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellBooting })
		}},
		"interrupted": {reason: "it ends in two minutes", pools: []Pool{cheapest}, then: func(w *world) {
			w.change(&w.cells()[0], func(c *v1beta1.Cell) { c.Status.Interruption = &v1beta1.InterruptionStatus{} })
		}},
		"stopped": {reason: "it is started for the pod", pools: []Pool{asleep}, want: []string{"t3a.nano"}},
		"not stopped yet": {reason: "it is not enrolled, and about to end its first boot", pools: []Pool{asleep}, then: func(w *world) {
			w.change(&w.cells()[0], func(c *v1beta1.Cell) { c.Status.Stop.Stopped = nil })
		}},
		"being started": {reason: "single use", pools: []Pool{asleep}, then: func(w *world) { w.take(&w.cells()[0]) }},
		"not to be started": {reason: "the cloud has refused another a moment ago", pools: []Pool{asleep},
			then: func(w *world) { w.unreachable[w.cells()[0].Name] = true }},
		"taken": {reason: "single use", pools: []Pool{cheapest}, then: func(w *world) { w.take(&w.cells()[0]) }},
		"sold out": {reason: "what can be launched now is dearer than what waits", pools: []Pool{cheapest}, want: []string{"t3a.nano"}, then: func(w *world) {
			for _, zone := range w.region.Zones {
				w.soldOut.Mark(instancetype.Key{InstanceType: "t3a.nano", Zone: zone, CapacityType: v1beta1.OnDemand}, w.clock.Now())
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, pool(tc.pools...), func(c *Config) { c.Tolerance = tc.tolerance })
			w.must()
			w.up()
			w.must()
			if tc.then != nil {
				tc.then(w)
			}
			spec := pod()
			if tc.pod != nil {
				tc.pod(&spec)
			}
			got, err := w.kip.Candidates(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			var types []string
			for _, c := range got {
				types = append(types, c.Status.Launch.InstanceType)
			}
			if len(types) != len(tc.want) || len(types) > 0 && types[0] != tc.want[0] || len(types) > 1 && types[1] != tc.want[1] {
				t.Errorf("%s: candidates %v, want %v", tc.reason, types, tc.want)
			}
		})
	}
}

// TestRunningFirst: a pod need not wait for what costs the same.
func TestRunningFirst(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		stopped := c.Pools[0]
		stopped.Stopped, stopped.Count = true, 1
		c.Pools = []Pool{stopped, c.Pools[0]}
		for i := range c.Pools {
			c.Pools[i].InstanceType = "t3a.nano"
		}
	})
	w.must()
	w.up()
	w.must()
	got, err := w.kip.Candidates(t.Context(), pod())
	if err != nil || len(got) != 4 {
		t.Fatalf("%d candidates, %v", len(got), err)
	}
	for i, c := range got {
		if c.KeptStopped() != (i == 3) {
			t.Errorf("candidate %d: stopped %t", i, c.KeptStopped())
		}
	}
}

// TestOldestFirst: it had most time to come up in full.
func TestOldestFirst(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Pools[0].InstanceType = "t3a.nano" })
	w.must()
	w.up()
	first := w.cells()[0]
	w.take(&first)
	w.clock.Step(time.Minute)
	w.must()
	w.up()
	got, err := w.kip.Candidates(t.Context(), pod())
	if err != nil || len(got) != 3 {
		t.Fatalf("%d candidates, %v", len(got), err)
	}
	if !got[0].CreationTimestamp.Before(&got[2].CreationTimestamp) {
		t.Errorf("the first was made at %s, the last at %s", got[0].CreationTimestamp, got[2].CreationTimestamp)
	}
}

func TestReserve(t *testing.T) {
	w := newWorld(t)
	w.must()
	w.up()
	cells := w.cells()
	w.full["crowded"] = true
	if w.kip.Reserve(&cells[0], "crowded") {
		t.Error("a namespace is given more than its limit")
	}
	if !w.kip.Reserve(&cells[0], "default") || w.given[cells[0].Name] != "default" {
		t.Fatal("it cannot be reserved, or does not count")
	}
	if w.kip.Reserve(&cells[0], "default") || !w.kip.Reserve(&cells[1], "default") {
		t.Error("one pod each")
	}
	w.must()
	if w.kip.Reserve(&cells[0], "default") {
		t.Error("the look at the pools forgot that a pod is about to take it")
	}
	w.kip.Release(&cells[0])
	if w.given[cells[0].Name] != "" || !w.kip.Reserve(&cells[0], "default") {
		t.Error("what was not taken is lost")
	}
	w.take(&cells[0])
	w.must()
	if len(w.kip.reserved) != 1 {
		t.Errorf("%d are remembered, want the one that still waits", len(w.kip.reserved))
	}
}
