package podmetrics

import (
	"context"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Summary is the answer to /stats/summary. cpuAndMemory leaves out the rest, as
// the query parameter only_cpu_and_memory does.
func (s *Store) Summary(ctx context.Context, cpuAndMemory bool) (*statsv1alpha1.Summary, error) {
	all, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	summary := &statsv1alpha1.Summary{Node: s.nodeStats(all), Pods: make([]statsv1alpha1.PodStats, 0, len(all))}
	for _, k := range all {
		stats := *k.stats
		if cpuAndMemory {
			stats = onlyCPUAndMemory(stats)
		}
		summary.Pods = append(summary.Pods, stats)
	}
	return summary, nil
}

// nodeStats are the sums over all pods.
func (s *Store) nodeStats(all []*kept) statsv1alpha1.NodeStats {
	cpu, at := s.node()
	node := statsv1alpha1.NodeStats{NodeName: s.NodeName, StartTime: metav1.NewTime(s.began)}
	if at.IsZero() {
		return node
	}
	var cores, usage, workingSet, rss uint64
	for _, k := range all {
		if c := k.stats.CPU; c != nil {
			cores += min(value(c.UsageNanoCores), maxCores*1e9)
		}
		if m := k.stats.Memory; m != nil {
			usage += min(value(m.UsageBytes), maxMemory)
			workingSet += min(value(m.WorkingSetBytes), maxMemory)
			rss += min(value(m.RSSBytes), maxMemory)
		}
	}
	nanoseconds := uint64(cpu) //nolint:gosec // never negative
	node.CPU = &statsv1alpha1.CPUStats{Time: metav1.NewTime(at), UsageNanoCores: &cores, UsageCoreNanoSeconds: &nanoseconds}
	node.Memory = &statsv1alpha1.MemoryStats{Time: metav1.NewTime(at), UsageBytes: &usage, WorkingSetBytes: &workingSet, RSSBytes: &rss}
	if left := s.Memory - int64(workingSet); left >= 0 {
		available := uint64(left)
		node.Memory.AvailableBytes = &available
	}
	return node
}

func onlyCPUAndMemory(stats statsv1alpha1.PodStats) statsv1alpha1.PodStats {
	only := statsv1alpha1.PodStats{
		PodRef: stats.PodRef, StartTime: stats.StartTime, CPU: stats.CPU, Memory: stats.Memory, Swap: stats.Swap,
		Containers: make([]statsv1alpha1.ContainerStats, 0, len(stats.Containers)),
	}
	for _, c := range stats.Containers {
		only.Containers = append(only.Containers, statsv1alpha1.ContainerStats{
			Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory, Swap: c.Swap,
		})
	}
	return only
}

// WriteResource writes the answer to /metrics/resource: the node's figures, and
// those of the pods with the times at which they were true.
func (s *Store) WriteResource(ctx context.Context, w io.Writer) error {
	all, err := s.current(ctx)
	if err != nil {
		return err
	}
	if err := writeNode(w, s.nodeStats(all)); err != nil {
		return err
	}
	return write(w, resourceFamilies, all, func(k *kept) *samples { return &k.resource })
}

// writeNode describes the node's families as the kubelet does.
func writeNode(w io.Writer, node statsv1alpha1.NodeStats) error {
	if node.CPU == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, `# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total %g %d
# HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes %d %d
`, float64(*node.CPU.UsageCoreNanoSeconds)/float64(time.Second), node.CPU.Time.UnixMilli(), *node.Memory.WorkingSetBytes, node.Memory.Time.UnixMilli())
	return err
}

// WriteCAdvisor writes the answer to /metrics/cadvisor.
func (s *Store) WriteCAdvisor(ctx context.Context, w io.Writer) error {
	all, err := s.current(ctx)
	if err != nil {
		return err
	}
	return write(w, cadvisorFamilies, all, func(k *kept) *samples { return &k.cadvisor })
}

// WriteProbes writes the answer to /metrics/probes.
func (s *Store) WriteProbes(ctx context.Context, w io.Writer) error {
	all, err := s.current(ctx)
	if err != nil {
		return err
	}
	return write(w, probesFamilies, all, func(k *kept) *samples { return &k.probes })
}

func write(w io.Writer, known *families, all []*kept, of func(*kept) *samples) error {
	cells := make([]*samples, 0, len(all))
	for _, k := range all {
		cells = append(cells, of(k))
	}
	return writeText(w, known, cells)
}
