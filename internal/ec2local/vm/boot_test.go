package vm

import (
	"regexp"
	"strconv"
	"testing"
	"time"
)

// steps are what the machine's first program says, by the name of the measure. Each line has the time since the kernel's
// start.
var steps = map[string]string{
	"init-s": "init started", "address-s": "has the address", "disk-s": "made a file system", "agent-s": "starting the agent",
}

// BenchmarkBoot measures when a machine of the image of make cell-image has come how far: the seconds since the kernel's
// start, and since the launch until the agent has something to say, which is what make bench-boot shows.
func BenchmarkBoot(b *testing.B) {
	config, m := testMachine(b, builtImage(b))
	h, err := New(config)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	sums := map[string]float64{}
	for b.Loop() {
		begin := time.Now()
		if err := h.Start(b.Context(), m); err != nil {
			b.Fatal(err)
		}
		awaitConsole(b, h, m.ID, "asking the metadata service", 1)
		sums["launch-s"] += time.Since(begin).Seconds()
		console, err := h.Console(m.ID)
		if err != nil {
			b.Fatal(err)
		}
		for measure, words := range steps {
			found := regexp.MustCompile(`\[ *([0-9.]+)\] kip: ` + words).FindSubmatch(console)
			if found == nil {
				b.Fatalf("it did not say %q:\n%s", words, console)
			}
			seconds, err := strconv.ParseFloat(string(found[1]), 64)
			if err != nil {
				b.Fatal(err)
			}
			sums[measure] += seconds
		}
		removeMachine(b, h, m)
	}
	for measure, sum := range sums {
		b.ReportMetric(sum/float64(b.N), measure)
	}
	b.ReportMetric((sums["agent-s"]-sums["init-s"])/float64(b.N), "userspace-s")
	b.ReportMetric(0, "ns/op") // says nothing
}
