package gateway

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// PodMetrics takes what cells report of their pods' use.
type PodMetrics interface {
	// Report takes the report of a cell, as it was sent, about the pod that is
	// bound to the cell. An error says that it is no such report. It may be
	// called from any goroutine, and does not block.
	Report(cell string, pod *corev1.Pod, data []byte) error
}

// takePodMetrics takes an agent's report. It can be about the cell's own pod
// only.
func (g *Gateway) takePodMetrics(cell Cell, body []byte, w http.ResponseWriter, _ *http.Request) error {
	pod := g.boundPod(cell)
	if pod == nil { // it went just now
		writeSuccess(w)
		return nil
	}
	if !g.cell(cell.Name).reportLimit.AllowN(g.clock.Now(), 1) {
		return apierrors.NewTooManyRequests("the cell reports too often", 5)
	}
	if err := g.podMetrics.Report(cell.Name, pod, body); err != nil {
		return invalid("taking the report: %v", err)
	}
	writeSuccess(w)
	return nil
}
