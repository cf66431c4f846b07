package hollowcell

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/podmetrics/podmetricstest"
	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

// reportInterval is an agent's (package agent).
const reportInterval = 15 * time.Second

// report says what the pod uses, until ctx ends: always the same, of the size of a real report.
func (w *worker) report(ctx context.Context, pod *corev1.Pod) {
	data, err := podmetricstest.Report(pod).Encode()
	if err != nil {
		return // it is made of what a kubelet said
	}
	for wait := rand.N(reportInterval); sleep(ctx, wait); wait = reportInterval { //nolint:gosec // no secret
		resp, err := w.send(ctx, http.MethodPost, report.Path, report.MediaType, bytes.NewReader(data))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
}
