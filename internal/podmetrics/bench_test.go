package podmetrics

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// fleet is so many pods with their cells, and what these report. Each container
// has an ID of its own, as in reality.
func fleet(b *testing.B, n int) (pods []*corev1.Pod, reports [][]byte) {
	b.Helper()
	r := realReport()
	for _, text := range []*string{&r.Resource, &r.CAdvisor, &r.Probes} { // as the agent leaves it
		*text = strings.Join(slices.DeleteFunc(strings.SplitAfter(*text, "\n"), func(line string) bool {
			return strings.HasPrefix(line, "#") || !strings.Contains(line, `pod="`+realName)
		}), "")
	}
	for i := range n {
		pod := newPod("shop", fmt.Sprintf("web-7667c7b945-%05d", i), fmt.Sprintf("cf3331f7-f428-43af-a4b5-%012d", i))
		pods = append(pods, pod)
		reports = append(reports, renamed(b, r, pod))
	}
	return pods, reports
}

// BenchmarkReport is what the report of one cell costs Kip.
func BenchmarkReport(b *testing.B) {
	h := newHarness(b)
	pods, reports := fleet(b, 100)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		h.report(b, "cell", pods[i%100], reports[i%100])
	}
	b.ReportMetric(float64(len(reports[0])), "sent-B")
}

// BenchmarkScrape is what one scrape costs of a node of so many pods, and what
// their reports take in memory.
func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		pods, reports := fleet(b, n)
		before := heap()
		h := newHarness(b)
		for i, pod := range pods {
			h.report(b, "cell-"+pod.Name, pod, reports[i])
		}
		perCell := float64(heap()-before) / float64(n)
		runtime.KeepAlive(reports)
		for path, write := range map[string]func(io.Writer) error{
			"resource": func(w io.Writer) error { return h.WriteResource(b.Context(), w) },
			"cadvisor": func(w io.Writer) error { return h.WriteCAdvisor(b.Context(), w) },
			"probes":   func(w io.Writer) error { return h.WriteProbes(b.Context(), w) },
			"summary": func(io.Writer) error {
				_, err := h.Summary(b.Context(), false)
				return err
			},
		} {
			b.Run(fmt.Sprintf("%s/%d", path, n), func(b *testing.B) {
				b.ReportAllocs()
				var count counter
				for range b.N {
					count = 0
					if err := write(&count); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(perCell, "kept-B/cell")
				b.ReportMetric(float64(count)/1e6, "MB")
			})
		}
		runtime.KeepAlive(h)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// counter counts what is written.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
