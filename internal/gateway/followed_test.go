package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/gateway"
)

// TestConfigMapsAreFollowedOnce: however many cells follow a ConfigMap, and in
// whatever way, the API server has one watch of it, and none when they are gone.
func TestConfigMapsAreFollowedOnce(t *testing.T) {
	t.Parallel() // it waits
	h := newHarness(t)
	h.State.Bind(cell, webPod())
	put(h, rootCAPath, configMap("1"))
	agent := h.agent(t, &http.Transport{})
	first, second := h.watch(t, agent, rootCA), h.watch(t, agent, rootCA)
	resp, err := http.Get(h.URL + rootCA)
	if err != nil {
		t.Fatal(err)
	}
	third := newEventStream(t, resp.Body)
	all := []*eventStream{first, second, third}
	for _, s := range all {
		s.next("ADDED", `"v":"1"`)
	}
	eventually(t, "it is watched", func() bool { return h.Upstream.Watches(rootCAPath) == 1 })
	put(h, rootCAPath, configMap("2"))
	for _, s := range all {
		s.next("MODIFIED", `"v":"2"`)
	}
	if code, body := h.do(t, "GET", strings.Replace(rootCA, "watch=true", "watch=false", 1), ""); code != http.StatusOK || !strings.Contains(body, `"v":"2"`) {
		t.Errorf("a list: %d %s", code, body)
	}
	for _, s := range all {
		s.body.Close()
	}
	h.watchesOpen(t, 0)
	for deadline := time.Now().Add(time.Minute); h.Upstream.Watches(rootCAPath) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is watched for nobody")
		}
	}
}

// TestFollowedConfigMapCannotBeRead: who asks is told why, and who asks again is
// served.
func TestFollowedConfigMapCannotBeRead(t *testing.T) {
	h := newHarness(t, func(c *gateway.Config) { c.Upstream.Host = "http://127.0.0.1:1" })
	h.State.Bind(cell, webPod())
	for range 2 {
		if code, body := h.do(t, "GET", rootCA, ""); code != http.StatusServiceUnavailable || !strings.Contains(body, "Kip cannot reach the API server") {
			t.Errorf("no API server: %d %s", code, body)
		}
	}
}
