// Package reports takes what cells say of images that they read without the
// image cache, or in part: each is an event of the pod, and counted.
package reports

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
)

// Reports implements gateway.CacheReports.
type Reports struct {
	events  record.EventRecorder
	reasons *prometheus.CounterVec
}

var _ gateway.CacheReports = (*Reports)(nil)

// New makes Reports.
func New(events record.EventRecorder, metrics prometheus.Registerer) (*Reports, error) {
	r := &Reports{events: events, reasons: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kip_image_cache_unused_total",
		Help: "Reports of cells that an image, or a layer of it, was not read from the image cache, by reason.",
	}, []string{"reason"})}
	if err := metrics.Register(r.reasons); err != nil {
		return nil, fmt.Errorf("registering the image cache's metrics: %w", err)
	}
	for _, reason := range grant.Reasons {
		r.reasons.WithLabelValues(reason)
	}
	return r, nil
}

// Report implements gateway.CacheReports.
func (r *Reports) Report(pod *corev1.Pod, report grant.Report) {
	r.reasons.WithLabelValues(report.Reason).Inc()
	switch report.Reason {
	case grant.NotCached:
		r.events.Eventf(pod, corev1.EventTypeNormal, "ImageCacheMissed", "The image cache has nothing of %s for this pod yet; it is pulled from its registry", report.Image)
	case grant.NotFetched:
		r.events.Eventf(pod, corev1.EventTypeWarning, "ImageCacheFailed", "Files of %s can be read neither from the image cache nor from the registry; whoever reads them waits: %s", report.Image, report.Message)
	default:
		r.events.Eventf(pod, corev1.EventTypeWarning, "ImageCacheFailed", "%s is read from its registry and not from the image cache (%s): %s", report.Image, report.Reason, report.Message)
	}
}
