package instancetype

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestKernelMemory holds the formula against measurements (MiB that the kernel
// did not show of what the cloud states): never less than measured, but for
// what the cell's headroom covers, and not much more.
func TestKernelMemory(t *testing.T) {
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for name, measured := range map[string]int64{
		"t3.nano": 89, "t3a.nano": 87, "t3.micro": 103, "t4g.micro": 102, "t3.small": 131, "t4g.small": 197,
		"c6g.medium": 209, "t3.medium": 253, "c6a.large": 295, "c5.large": 433, "m6g.medium": 295,
		"m5.large": 559, "m6i.large": 405, "m7g.large": 419, "t3.large": 365, "m6a.xlarge": 757, "m5.xlarge": 867,
		"r5.large": 699, "m6g.2xlarge": 1391, "t3.2xlarge": 1038, "m5.4xlarge": 2718, "c5.9xlarge": 3521,
		"m6g.8xlarge": 5057, "c5.18xlarge": 6727, "m6a.12xlarge": 7445, "m6g.16xlarge": 9976,
		"m6a.24xlarge": 14385, "r7g.16xlarge": 17603, "m6a.48xlarge": 28647, "r6a.48xlarge": 57072, "x2gd.16xlarge": 29057,
	} {
		it, ok := c.Type(name)
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		const headroom = 64
		kept := kernelMemoryMiB(it)
		if kept < measured-headroom {
			t.Errorf("%s: %d MiB kept by formula, %d measured", name, kept, measured)
		}
		if excess := kept - measured; excess > 256+it.MemoryMiB*18/1000 {
			t.Errorf("%s: %d MiB kept by formula, only %d measured", name, kept, measured)
		}
	}
}

func TestPodCapacity(t *testing.T) {
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"t3.nano", "t3.medium", "m6i.32xlarge"} {
		it, _ := c.Type(name)
		capacity := it.PodCapacity()
		got[name] = capacity.Cpu().String() + " " + capacity.Memory().String()
	}
	want := map[string]string{"t3.nano": "2 261Mi", "t3.medium": "2 3575Mi", "m6i.32xlarge": "128 503308Mi"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	gpus := map[string]int64{"g4dn.12xlarge": 4, "g6f.large": 1, "g4ad.xlarge": 0}
	for name, want := range gpus {
		it, _ := c.Type(name)
		if q := it.PodCapacity()[ResourceGPU]; q.Value() != want {
			t.Errorf("%s: %d GPUs for pods, want %d", name, q.Value(), want)
		}
	}
	tiny := &InstanceType{Name: "x1.tiny", VCPUs: 1, MemoryMiB: 128}
	memory := tiny.PodCapacity()[corev1.ResourceMemory]
	if !memory.IsZero() {
		t.Errorf("a type smaller than the cell itself leaves %s", memory.String())
	}
}
