package podmetrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

const (
	// expiry is how old a report may be: four were due since. What no longer
	// reports is not shown as if nothing had changed.
	expiry = time.Minute
	// sweepInterval is how often expired reports are given up.
	sweepInterval = time.Minute

	// maxCores and maxMemory, in bytes, are more than any instance has. What a
	// pod is said to use beyond them does not count in the node's figures.
	maxCores, maxMemory = 2048, 64 << 40
)

// Config is what a Store works with.
type Config struct {
	// NodeName is the virtual node, and Memory what it says it has.
	NodeName string
	Memory   int64
	// Holders says which cell has each of the node's pods now. It answers from
	// memory.
	Holders func(context.Context) (map[types.UID]string, error)
	Clock   clock.WithTicker
	Metrics prometheus.Registerer
}

// Store keeps the last report of each cell. It is safe for concurrent use.
type Store struct {
	Config
	metrics *metrics
	began   time.Time

	mu    sync.Mutex
	cells map[string]*kept
	// cpu is what pods used since began, cpuAt when that was last added to. It
	// does not fall when a pod goes, so that rates are right.
	cpu   time.Duration
	cpuAt time.Time
}

// kept is the last report of a cell. It is replaced, never changed.
type kept struct {
	uid   types.UID
	at    time.Time
	stats *statsv1alpha1.PodStats
	// The samples of the endpoints of these names.
	resource, cadvisor, probes samples
}

// New makes a Store.
func New(cfg Config) (*Store, error) {
	if cfg.NodeName == "" || cfg.Holders == nil || cfg.Clock == nil || cfg.Metrics == nil {
		return nil, errors.New("podmetrics: every field of Config but Memory must be set")
	}
	s := &Store{Config: cfg, began: cfg.Clock.Now(), cells: map[string]*kept{}}
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics, s.count); err != nil {
		return nil, err
	}
	return s, nil
}

// ErrInvalid is the error for a report that is none.
var ErrInvalid = errors.New("not a report of pod metrics")

// Report takes the report of a cell, as it was sent, about the pod that it has.
// It implements gateway.PodMetrics.
func (s *Store) Report(cell string, pod *corev1.Pod, data []byte) error {
	r, err := report.Decode(data)
	if err != nil {
		s.metrics.refused.Inc()
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	stats, err := ownStats(r.Pods, pod)
	if err != nil {
		s.metrics.refused.Inc()
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	s.metrics.reports.Inc()
	of := subject{pod.Namespace, pod.Name, string(pod.UID)}
	s.keep(cell, pod, &kept{
		uid: pod.UID, at: s.Clock.Now(), stats: stats,
		resource: parseSamples(r.Resource, resourceFamilies, of),
		cadvisor: parseSamples(r.CAdvisor, cadvisorFamilies, of),
		probes:   parseSamples(r.Probes, probesFamilies, of),
	})
	return nil
}

// keep makes k the cell's last report, and adds to the node's what the pod used
// since the one before. What a pod used before Kip began is not added: of a
// thousand pods that run on it would be hours at once.
func (s *Store) keep(cell string, pod *corev1.Pod, k *kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.cells[cell]
	s.cells[cell] = k
	s.cpuAt = k.at
	used, since := cpuTime(k.stats), pod.CreationTimestamp.Time
	if before != nil && before.uid == k.uid {
		used, since = used-cpuTime(before.stats), before.at
	} else if !since.After(s.began) {
		return
	}
	// It is less than nothing where a counter was reset.
	s.cpu += max(0, min(used, maxCores*k.at.Sub(since)))
}

// Start gives up expired reports until ctx ends.
func (s *Store) Start(ctx context.Context) error {
	ticker := s.Clock.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			s.sweep()
		}
	}
}

func (s *Store) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cell, k := range s.cells {
		if s.expired(k) {
			delete(s.cells, cell)
		}
	}
}

func (s *Store) expired(k *kept) bool { return s.Clock.Since(k.at) > expiry }

// count is how many reports are kept.
func (s *Store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.cells)
}

// current returns what is good now: of each pod the report of the cell that
// has it, in the order of the pods' names.
func (s *Store) current(ctx context.Context) ([]*kept, error) {
	holders, err := s.Holders(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding out which cells have pods: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*kept, 0, len(holders))
	for uid, cell := range holders {
		if k := s.cells[cell]; k != nil && k.uid == uid && !s.expired(k) {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b *kept) int {
		x, y := a.stats.PodRef, b.stats.PodRef
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return all, nil
}

// node is what the node's pods used since began, and when that was.
func (s *Store) node() (cpu time.Duration, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cpu, s.cpuAt
}
