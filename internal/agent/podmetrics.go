package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

const (
	// reportInterval is how often Kip is told what the pod uses: as often as
	// the kubelet looks, and those who scrape kubelets do.
	reportInterval = 15 * time.Second
	// reportTimeout bounds one report, from asking the kubelet to Kip's answer.
	reportTimeout = 10 * time.Second
	// maxMetrics bounds an answer of the kubelet, most of which is not about
	// the pod, in bytes.
	maxMetrics = 16 << 20
)

// podMetrics tells Kip what the pod uses of the instance.
type podMetrics struct {
	kubelet, gateway *http.Client
	logger           *slog.Logger
	interval         time.Duration
}

func newPodMetrics(kubelet, gateway http.RoundTripper, logger *slog.Logger) *podMetrics {
	return &podMetrics{
		kubelet: &http.Client{Transport: kubelet}, gateway: &http.Client{Transport: gateway},
		logger: logger, interval: reportInterval,
	}
}

// report tells Kip in each interval, until ctx ends. Cells that boot together
// do not report together. A report that fails is not made up for: the next one
// says it all.
func (m *podMetrics) report(ctx context.Context) {
	timer := time.NewTimer(rand.N(m.interval)) //nolint:gosec // no secret
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(m.interval)
		if err := m.reportOnce(ctx); err != nil && ctx.Err() == nil {
			m.logger.Debug("telling Kip what the pod uses", "error", err)
		}
	}
}

// reportOnce tells Kip what the kubelet says now. Without a pod there is
// nothing to tell.
func (m *podMetrics) reportOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	summary, err := m.ask(ctx, "/stats/summary")
	if err != nil {
		return err
	}
	var of struct {
		Pods []json.RawMessage `json:"pods"`
	}
	if err := json.Unmarshal(summary, &of); err != nil {
		return fmt.Errorf("reading the kubelet's summary: %w", err)
	}
	if len(of.Pods) == 0 {
		return nil
	}
	var r report.Report
	if r.Pods, err = json.Marshal(of.Pods); err != nil {
		return fmt.Errorf("reading the kubelet's summary: %w", err)
	}
	for path, lines := range map[string]*string{
		"/metrics/resource": &r.Resource, "/metrics/cadvisor": &r.CAdvisor, "/metrics/probes": &r.Probes,
	} {
		text, err := m.ask(ctx, path)
		if err != nil {
			return err
		}
		*lines = report.AboutPods(string(text))
	}
	data, err := r.Encode()
	if err != nil {
		return err
	}
	return m.tell(ctx, data)
}

// ask asks the kubelet.
func (m *podMetrics) ask(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+kubeletAddress+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	resp, err := m.kubelet.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the kubelet for %s: status %d", path, resp.StatusCode)
	}
	return text, nil
}

// tell sends the report over the gateway connection.
func (m *podMetrics) tell(ctx context.Context, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://kip"+report.Path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("sending the report: %w", err)
	}
	req.Header.Set("Content-Type", report.MediaType)
	resp, err := m.gateway.Do(req)
	if err != nil {
		return fmt.Errorf("sending the report: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("sending the report: status %d: %s", resp.StatusCode, text)
	}
	return nil
}
