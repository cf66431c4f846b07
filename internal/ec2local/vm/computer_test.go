package vm

import (
	"regexp"
	"runtime"
	"testing"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

func TestSize(t *testing.T) {
	cases := map[string]struct {
		reason      string
		spec        machine.Spec
		accelerated bool
		processors  int
		memory      int64 // 0: less than was asked for
	}{
		"Small":    {"What the host has is given.", machine.Spec{VCPUs: 1, MemoryMiB: 512}, true, 1, 512},
		"Fraction": {"There is no less than one processor.", machine.Spec{VCPUs: 0.5, MemoryMiB: 512}, true, 1, 512},
		"Large":    {"No machine is larger than its host.", machine.Spec{VCPUs: 4096, MemoryMiB: 1 << 40}, true, runtime.NumCPU(), 0},
		"Emulated": {"Emulated processors would wait for each other.", machine.Spec{VCPUs: 2, MemoryMiB: 512}, false, 1, 512},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			processors, memory, err := size(tc.spec, tc.accelerated)
			if err != nil {
				t.Fatal(err)
			}
			if processors != tc.processors || tc.memory != 0 && memory != tc.memory || memory <= 0 || tc.memory == 0 && memory >= tc.spec.MemoryMiB {
				t.Errorf("%s got %d processors and %d MiB", tc.reason, processors, memory)
			}
		})
	}
}

func TestSystemUUID(t *testing.T) {
	want := regexp.MustCompile(`^ec2[0-9a-f]{5}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	if got := systemUUID("i-0123456789abcdef0"); !want.MatchString(got) {
		t.Errorf("%s is no UUID of EC2's", got)
	}
	if systemUUID("i-0123456789abcdef0") == systemUUID("i-0123456789abcdef1") {
		t.Error("two machines have the same UUID")
	}
}
