package gateway

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// decision is what became of a request, as counted.
type decision string

const (
	served   decision = "served"   // answered by the gateway itself
	proxied  decision = "proxied"  // answered by the API server
	dropped  decision = "dropped"  // answered as if done, on purpose not done
	refused  decision = "refused"  // not allowed by the policy
	failed   decision = "failed"   // allowed, but wrong, out of date or not possible now
	panicked decision = "panicked" // a bug
)

// other stands for what is in no policy row, so that a cell cannot make labels.
const other = "other"

type metrics struct {
	requests *prometheus.CounterVec
	watches  *prometheus.GaugeVec
	objects  *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_gateway_requests_total",
			Help: "Requests of cells' kubelets and kube-proxies, by what became of them. Refused ones are not allowed by the policy: a healthy cell makes none.",
		}, []string{"resource", "verb", "decision"}),
		watches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kip_gateway_watches",
			Help: "Watches that cells have open now.",
		}, []string{"resource"}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kip_gateway_shared_objects",
			Help: "Objects in the caches that all cells share.",
		}, []string{"resource"}),
	}
	for _, collector := range []prometheus.Collector{m.requests, m.watches, m.objects} {
		if err := registerer.Register(collector); err != nil {
			return nil, fmt.Errorf("registering the gateway's metrics: %w", err)
		}
	}
	return m, nil
}
