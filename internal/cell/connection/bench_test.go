package connection

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// BenchmarkRestart is how long a new Kip takes until all its cells, enrolled by
// the Kip before it, are connected; over loopback, with the agents in the same
// process, so both ends share its CPUs.
func BenchmarkRestart(b *testing.B) {
	for _, cells := range []int{100, 1000} {
		b.Run(fmt.Sprintf("cells=%d", cells), func(b *testing.B) {
			w := newWorld(b)
			names := make([]string, cells)
			for i := range names {
				names[i] = fmt.Sprintf("cell-%d", i)
				w.addCell(names[i], w.agent(names[i], "", &memoryStore{}).addr)
			}
			all := func(k *kip) {
				k.reconcile(names...)
				eventually(b, "all are connected", func() bool { return k.value("kip_cells_connected", "") == float64(cells) })
			}
			first := w.start(nil)
			all(first)
			first.stop()
			time.Sleep(100 * time.Millisecond)

			bytes, goroutines := resources()
			var k *kip
			for b.Loop() {
				if k != nil {
					k.stop()
				}
				k = w.start(nil)
				all(k)
			}
			b.StopTimer()
			bytesAfter, goroutinesAfter := resources()
			b.ReportMetric((bytesAfter-bytes)/float64(cells), "B/connection")
			b.ReportMetric(float64(goroutinesAfter-goroutines)/float64(cells), "goroutines/connection")
			k.stop()
		})
	}
}

// resources are what the process holds: memory of heap and stacks, goroutines.
func resources() (bytes float64, goroutines int) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}
