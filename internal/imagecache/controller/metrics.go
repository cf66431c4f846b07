package controller

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	layers  *prometheus.CounterVec
	pulled  prometheus.Counter
	removed *prometheus.CounterVec
	images  prometheus.Gauge
	bytes   prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		layers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_image_cache_layers_total",
			Help: "Layers that an image needed, by what became of them (pulled, shared, failed, not-cacheable).",
		}, []string{"result"}),
		pulled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kip_image_cache_pulled_bytes_total",
			Help: "Bytes of layers that came from registries.",
		}),
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_image_cache_removed_total",
			Help: "What was removed from the cache, by reason (unused, size, unreferenced, damaged).",
		}, []string{"reason"}),
		images: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_image_cache_images",
			Help: "Images in the cache.",
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_image_cache_bytes",
			Help: "Bytes of the files on the share.",
		}),
	}
	for _, c := range []prometheus.Collector{m.layers, m.pulled, m.removed, m.images, m.bytes} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering the image cache's metrics: %w", err)
		}
	}
	return m, nil
}
