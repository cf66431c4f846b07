package kubeletapi

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// fakeMetrics is what cells reported.
type fakeMetrics struct {
	before, after error // before and after anything was written
}

func (m *fakeMetrics) Summary(_ context.Context, cpuAndMemory bool) (*statsv1alpha1.Summary, error) {
	return &statsv1alpha1.Summary{Node: statsv1alpha1.NodeStats{NodeName: fmt.Sprintf("only=%t", cpuAndMemory)}}, m.before
}

func (m *fakeMetrics) write(w io.Writer, text string) error {
	if m.before != nil {
		return m.before
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return m.after
}

func (m *fakeMetrics) WriteResource(_ context.Context, w io.Writer) error {
	return m.write(w, "pod_cpu_usage_seconds_total 1\n")
}

func (m *fakeMetrics) WriteCAdvisor(_ context.Context, w io.Writer) error {
	return m.write(w, "container_threads 2\n")
}

func (m *fakeMetrics) WriteProbes(_ context.Context, _ io.Writer) error { return m.before }

// TestNode: what is about the whole node, who may see it, and that no cell is
// asked for it.
func TestNode(t *testing.T) {
	h := newHarness(t)
	users := []string{"get", "create", "stats", "metrics", "pods", "log", "nobody", ""}
	for path, tc := range map[string]struct {
		want string
		may  string
	}{
		"/pods":          {`"name":"web"`, "get create pods"},
		"/pods/":         {`"kind":"PodList"`, "get create pods"},
		"/runningpods/":  {`"kind":"PodList"`, "get create"},
		"/stats/summary": {`"nodeName":"only=false"`, "stats"},
		"/stats/summary?only_cpu_and_memory=true": {`"nodeName":"only=true"`, "stats"},
		"/metrics":                    {"kip_cells 1", "metrics"},
		"/metrics/resource":           {"pod_cpu_usage_seconds_total 1", "metrics"},
		"/metrics/cadvisor":           {"container_threads 2", "metrics"},
		"/metrics/probes":             {"", "metrics"},
		"/debug/pprof/":               {"goroutine", "get create"},
		"/debug/pprof/heap?debug=1":   {"heap profile", "get create"},
		"/containerLogs/shop/web/app": {"from the cell", "get create"},
	} {
		for _, user := range users {
			code, body := h.do(t, "GET", path, user)
			want := http.StatusForbidden
			switch {
			case user == "":
				want = http.StatusUnauthorized
			case strings.Contains(" "+tc.may+" ", " "+user+" "):
				want = http.StatusOK
			}
			if code != want || code == http.StatusOK && !strings.Contains(body, tc.want) {
				t.Errorf("%s as %q: %d %s, want %d %s", path, user, code, body, want, tc.want)
			}
		}
	}
	// nodes/pods is the right to list, and nothing more.
	for _, path := range []string{"/podsx", "/pods/shop", "/exec/shop/web/app", "/run/shop/web/app"} {
		if code, _ := h.do(t, "GET", path, "pods"); code == http.StatusOK {
			t.Errorf("nodes/pods is good for %s", path)
		}
	}
	for _, path := range []string{"/stats", "/stats/container", "/metrics/other", "/runningpods/shop", "/configz", "/debug", "/debug/flags/v"} {
		if code, body := h.do(t, "GET", path, "create"); code == http.StatusOK {
			t.Errorf("%s: %s", path, body)
		}
	}
	for _, asked := range h.requests() {
		if !strings.Contains(asked, "containerLogs") {
			t.Errorf("a cell was asked: %s", asked)
		}
	}
}

func TestMetricsAreCompressed(t *testing.T) {
	h := newHarness(t)
	for path, want := range map[string]string{"/metrics/resource": "pod_cpu_usage_seconds_total 1\n", "/metrics/probes": ""} {
		resp := h.open(t, "GET", path, "metrics", "Accept-Encoding", "gzip")
		defer resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); resp.Header.Get("Content-Encoding") != "gzip" || got != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("%s: headers %v", path, resp.Header)
		}
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(z); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}

func TestMetricsThatCannotBeHad(t *testing.T) {
	h := newHarness(t)
	h.metrics.before = errors.New("the cache is not read yet")
	for _, path := range []string{"/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/metrics/probes"} {
		user := strings.Split(path, "/")[1]
		if code, body := h.do(t, "GET", path, user); code != http.StatusInternalServerError || !strings.Contains(body, "not read yet") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	// Half an answer must not pass for one.
	h.metrics.before, h.metrics.after = nil, errors.New("out of luck")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/metrics/cadvisor", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer metrics")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer %q ends as if it were whole", text)
	}
}
