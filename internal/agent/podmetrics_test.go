package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

// kubeletOf is a kubelet that answers so, by path.
func kubeletOf(answers map[string]string) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(answers[r.URL.Path])), Request: r}
		if _, ok := answers[r.URL.Path]; !ok || r.URL.Host != "127.0.0.1:10250" {
			resp.StatusCode = http.StatusNotFound
		}
		return resp, nil
	})
}

var answersOfAKubelet = map[string]string{
	"/stats/summary":    `{"node": {"nodeName": "kip-provider-0"}, "pods": [{"podRef": {"name": "web"}}]}`,
	"/metrics/resource": "# HELP pod_x X {pod=\"y\"}\n# TYPE pod_x gauge\npod_x{namespace=\"shop\",pod=\"web\"} 1 2\nnode_x 3 4\n",
	"/metrics/cadvisor": "container_x{container=\"\",id=\"/\",namespace=\"\",pod=\"\"} 1\ncontainer_x{id=\"/a\",namespace=\"shop\",pod=\"web\"} 2\ncontainer_x{pod=\"web\"} 3\nx{pod=\"",
	"/metrics/probes":   "process_start_time_seconds 5\n",
}

// Kip is away, then refuses, then hears; and in each interval it is told anew.
func TestPodMetricsAreReported(t *testing.T) {
	heard := make(chan []byte)
	var mu sync.Mutex
	attempts := 0
	gateway := roundTripper(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		attempts++
		attempt := attempts
		mu.Unlock()
		switch attempt {
		case 1:
			return nil, errors.New("Kip is away")
		case 2:
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody, Request: r}, nil
		}
		if r.Method != http.MethodPost || r.URL.Path != report.Path || r.Header.Get("Content-Type") != report.MediaType {
			t.Errorf("Kip got %s %s, %v", r.Method, r.URL.Path, r.Header)
		}
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		select {
		case heard <- data:
		case <-r.Context().Done():
		}
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
	})
	m := newPodMetrics(kubeletOf(answersOfAKubelet), gateway, slog.New(slog.DiscardHandler))
	m.interval = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.report(ctx) })
	defer wg.Wait()
	defer cancel()
	want := report.Report{
		Pods:     json.RawMessage(`[{"podRef":{"name":"web"}}]`),
		Resource: "pod_x{namespace=\"shop\",pod=\"web\"} 1 2\n",
		CAdvisor: "container_x{id=\"/a\",namespace=\"shop\",pod=\"web\"} 2\ncontainer_x{pod=\"web\"} 3\nx{pod=\"",
	}
	for range 2 {
		got, err := report.Decode(<-heard)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestNothingToReport(t *testing.T) {
	changed := func(path, text string) map[string]string {
		answers := map[string]string{}
		for p, a := range answersOfAKubelet {
			answers[p] = a
		}
		if answers[path] = text; text == "" {
			delete(answers, path)
		}
		return answers
	}
	for name, tc := range map[string]struct {
		reason  string
		answers map[string]string
		err     bool
	}{
		"Standby":   {"a cell without a pod", changed("/stats/summary", `{"node":{},"pods":[]}`), false},
		"NoSummary": {"a kubelet that is not up yet", nil, true},
		"NoJSON":    {"and one that is no kubelet", changed("/stats/summary", "starting"), true},
		"NoMetrics": {"half of a report would look like a pod without containers", changed("/metrics/cadvisor", ""), true},
	} {
		gateway := roundTripper(func(*http.Request) (*http.Response, error) {
			t.Errorf("%s: Kip was told something", name)
			return nil, errors.New("not expected")
		})
		m := newPodMetrics(kubeletOf(tc.answers), gateway, slog.New(slog.DiscardHandler))
		if err := m.reportOnce(t.Context()); (err != nil) != tc.err {
			t.Errorf("%s (%s): %v", name, tc.reason, err)
		}
	}
}
