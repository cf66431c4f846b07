package gateway_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
	imagecachegrant "github.com/elotl/kip/v2/internal/imagecache/grant"
)

// cacheReports is a gateway.CacheReports that remembers what it was told.
type cacheReports struct {
	mu      sync.Mutex
	reports []string
}

var _ gateway.CacheReports = (*cacheReports)(nil)

func (c *cacheReports) Report(pod *corev1.Pod, r imagecachegrant.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports = append(c.reports, pod.Namespace+"/"+pod.Name+" "+r.Image+" "+r.Reason+" "+r.Message)
}

func TestCacheReport(t *testing.T) {
	h := newHarness(t)
	const good = `{"image":"web:1","reason":"Corrupt","message":"layer sha256:1"}`
	send := func(body string) int {
		code, _ := h.do(t, "POST", imagecachegrant.ReportPath, body, "Content-Type", "application/json")
		return code
	}
	if code := send(good); code != http.StatusOK {
		t.Errorf("a cell whose pod went is answered %d", code)
	}
	h.State.Bind(cell, webPod())
	for name, tc := range map[string]struct {
		reason, body string
		code         int
	}{
		"Report":  {"as a cell sends it", good, http.StatusOK},
		"Unknown": {"reasons are labels of a metric", strings.ReplaceAll(good, "Corrupt", "Whatever"), http.StatusBadRequest},
		"More":    {"nothing else is taken", strings.ReplaceAll(good, "{", `{"pod":"other",`), http.StatusBadRequest},
		"Control": {"events are read on terminals", strings.ReplaceAll(good, "layer", `\u001b[2J`), http.StatusOK},
		"Large":   {"a cell cannot fill Kip's memory", strings.ReplaceAll(good, "layer", strings.Repeat("x", imagecachegrant.MaxReport)), http.StatusRequestEntityTooLarge},
	} {
		if code := send(tc.body); code != tc.code {
			t.Errorf("%s (%s): %d, want %d", name, tc.reason, code, tc.code)
		}
	}
	codes := map[int]int{}
	for range 100 {
		codes[send(strings.ReplaceAll(good, "layer", "flood"))]++
	}
	if codes[http.StatusTooManyRequests] < 50 {
		t.Errorf("a cell that reports all the time is answered %v", codes)
	}
	h.CacheReports.mu.Lock()
	defer h.CacheReports.mu.Unlock()
	seen := map[string]bool{}
	for _, r := range h.CacheReports.reports {
		if strings.Contains(r, "\x1b") {
			t.Errorf("%q reaches a terminal", r)
		}
		seen[r] = true
	}
	if diff := cmp.Diff(true, seen[`shop/web "web:1" Corrupt "layer sha256:1"`]); diff != "" {
		t.Errorf("what was taken: %v", h.CacheReports.reports)
	}
}
