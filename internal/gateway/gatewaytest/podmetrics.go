package gatewaytest

import (
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

// PodMetrics is a gateway.PodMetrics that remembers what it was told. It takes
// everything but an empty report.
type PodMetrics struct {
	mu      sync.Mutex
	reports []string
}

var _ gateway.PodMetrics = (*PodMetrics)(nil)

// Report implements gateway.PodMetrics.
func (p *PodMetrics) Report(cell string, pod *corev1.Pod, data []byte) error {
	if len(data) == 0 {
		return errors.New("it is empty")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = append(p.reports, cell+" "+pod.Namespace+"/"+pod.Name+" "+string(data))
	return nil
}

// Reports are those that were taken: cell, pod and what was sent.
func (p *PodMetrics) Reports() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.reports...)
}
