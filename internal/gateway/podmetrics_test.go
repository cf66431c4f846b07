package gateway_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

func TestPodMetrics(t *testing.T) {
	h := newHarness(t)
	send := func(body, mediaType string) int {
		code, _ := h.do(t, "POST", report.Path, body, "Content-Type", mediaType)
		return code
	}
	if code := send("early", report.MediaType); code != http.StatusOK {
		t.Errorf("a cell without a pod is answered %d, and may be: its pod went just now", code)
	}
	h.State.Bind(cell, webPod())
	for name, tc := range map[string]struct {
		reason, body, mediaType string
		code                    int
	}{
		"Report": {"as an agent sends it", "zipped", report.MediaType, http.StatusOK},
		"Empty":  {"what is none is said to be none", "", report.MediaType, http.StatusBadRequest},
		"JSON":   {"the other requests of agents are JSON, this one is not", "{}", "application/json", http.StatusUnsupportedMediaType},
		"Large":  {"a cell cannot fill Kip's memory", strings.Repeat("x", report.MaxEncoded+1), report.MediaType, http.StatusRequestEntityTooLarge},
	} {
		if code := send(tc.body, tc.mediaType); code != tc.code {
			t.Errorf("%s (%s): %d, want %d", name, tc.reason, code, tc.code)
		}
	}
	if code, _ := h.do(t, "GET", report.Path, ""); code != http.StatusForbidden {
		t.Errorf("a cell that reads: %d", code)
	}
	codes := map[int]int{}
	for range 10 {
		codes[send("flood", report.MediaType)]++
	}
	if codes[http.StatusTooManyRequests] < 8 {
		t.Errorf("a cell that reports all the time is answered %v", codes)
	}
	h.State.SetPod(cell, nil)
	send("late", report.MediaType)
	taken := slices.DeleteFunc(h.PodMetrics.Reports(), func(r string) bool { return strings.HasSuffix(r, " flood") })
	if diff := cmp.Diff([]string{"cell-1 shop/web zipped"}, taken); diff != "" {
		t.Errorf("what was taken (-want +got)\n%s", diff)
	}
	if n := h.count(t, "kip_gateway_requests_total", "podmetrics", "create", "served"); n != float64(3+codes[http.StatusOK]) {
		t.Errorf("%v are counted as served", n)
	}
}
