package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/agent/watches"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/watchstream"
)

// eventStream are the events of a watch, as they come.
type eventStream struct {
	t    *testing.T
	body io.Closer
	more *bufio.Scanner
}

// next is the type of the next event, and whether the event has the text.
func (l *eventStream) next(want, text string) {
	l.t.Helper()
	if !l.more.Scan() {
		l.t.Fatalf("the watch ended (%v), want %s", l.more.Err(), want)
	}
	if line := l.more.Text(); !strings.HasPrefix(line, `{"type":"`+want+`"`) || !strings.Contains(line, text) {
		l.t.Fatalf("got %s, want %s with %s", line, want, text)
	}
}

// ends makes sure that there is no other event.
func (l *eventStream) ends() error {
	l.t.Helper()
	if l.more.Scan() {
		l.t.Fatalf("got %s, want the end", l.more.Text())
	}
	return l.more.Err()
}

// watch begins a watch by way of the agent.
func (h *harness) watch(t *testing.T, agent *watches.Transport, path string) *eventStream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := agent.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %s %v", path, resp.Status, resp.Header)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return newEventStream(t, resp.Body)
}

func newEventStream(t *testing.T, body io.ReadCloser) *eventStream {
	return &eventStream{t: t, body: body, more: bufio.NewScanner(body)}
}

const (
	ownPods     = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3D" + node
	allServices = "/api/v1/services?watch=1"
	rootCA      = "/api/v1/namespaces/" + ns + "/configmaps?watch=true&fieldSelector=metadata.name%3Dkube-root-ca.crt"
	rootCAPath  = "/api/v1/namespaces/" + ns + "/configmaps/kube-root-ca.crt"
)

func (h *harness) watchesOpen(t *testing.T, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d watches are open", want), func() bool { return int(h.count(t, "kip_gateway_watches")) == want })
}

func configMap(version string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kube-root-ca.crt", ResourceVersion: version},
		Data:       map[string]string{"v": version},
	}
}

// TestWatchesOnOneStream: what the cell alone has, what all share and what the
// API server answers come side by side.
func TestWatchesOnOneStream(t *testing.T) {
	h := newHarness(t)
	put(h, rootCAPath, configMap("7"))
	h.State.Bind(cell, webPod())
	agent := h.agent(t, http.DefaultTransport)
	pods, services, ca := h.watch(t, agent, ownPods), h.watch(t, agent, allServices), h.watch(t, agent, rootCA)
	again := h.watch(t, agent, allServices)
	pods.next("ADDED", `"web"`)
	ca.next("ADDED", `"v":"7"`)
	if _, err := h.Shared.CoreV1().Services(ns).Create(t.Context(), sharedService("api", "10.96.0.12", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	services.next("ADDED", `"api"`)
	again.next("ADDED", `"api"`)
	put(h, rootCAPath, configMap("8"))
	ca.next("MODIFIED", `"v":"8"`)
	h.watchesOpen(t, 4)
	if streams := h.count(t, "kip_gateway_requests_total", "watches"); streams != 0 {
		t.Errorf("%g streams have ended", streams)
	}

	again.body.Close()
	h.watchesOpen(t, 3)

	// With the pod goes what it referred to, and nothing else.
	h.State.SetPod(cell, nil)
	pods.next("DELETED", `"web"`)
	if err := ca.ends(); err != nil {
		t.Errorf("the watch of what the pod referred to ended with %v", err)
	}
	h.watchesOpen(t, 2)
}

// TestStreamIsLost: with the stream all of its watches end, none of them as one
// whose time is over.
func TestStreamIsLost(t *testing.T) {
	for name, tc := range map[string]struct {
		lose func(*testing.T, *harness)
		left int // watches
	}{
		"the connection": {func(_ *testing.T, h *harness) { h.closeConnections() }, 0},
		"another stream": {func(t *testing.T, h *harness) { h.watch(t, h.agent(t, &http.Transport{}), allServices) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			put(h, rootCAPath, configMap("7"))
			h.State.Bind(cell, webPod())
			agent := h.agent(t, &http.Transport{})
			pods, ca := h.watch(t, agent, ownPods), h.watch(t, agent, rootCA)
			pods.next("ADDED", `"web"`)
			ca.next("ADDED", `"v":"7"`)
			tc.lose(t, h)
			for _, l := range []*eventStream{pods, ca} {
				if err := l.ends(); !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(fmt.Sprint(err), "lost") {
					t.Errorf("ended with %v", err)
				}
			}
			h.watchesOpen(t, tc.left)
			h.watch(t, agent, ownPods).next("ADDED", `"web"`)
		})
	}
}

// TestRefusedOnTheStream: the stream makes nothing allowed that is not.
func TestRefusedOnTheStream(t *testing.T) {
	h := newHarness(t)
	h.State.Bind(cell, webPod())
	agent := h.agent(t, http.DefaultTransport)
	h.watch(t, agent, ownPods)
	for path, want := range map[string]int{
		"/api/v1/namespaces/shop/secrets?watch=true&fieldSelector=metadata.name%3Dother": http.StatusForbidden,
		"/api/v1/secrets?watch=true":                    http.StatusForbidden,
		"/api/v1/nodes?watch=true":                      http.StatusForbidden,
		"/api/v1/services?watch=true&resourceVersion=1": http.StatusGone,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := agent.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || !strings.Contains(string(text), `"Status"`) {
			t.Errorf("%s: %s %s, want %d", path, resp.Status, text, want)
		}
	}
	h.watchesOpen(t, 1)
	for value, want := range map[string]int{"x": http.StatusBadRequest, "5/0": http.StatusBadRequest, "5/1": http.StatusServiceUnavailable} {
		if code, body := h.do(t, "GET", allServices, "", watchstream.Header, value); code != want {
			t.Errorf("watch with header %q: %d %s, want %d", value, code, body, want)
		}
		if code, body := h.do(t, "GET", "/api/v1/services", "", watchstream.Header, value); code != http.StatusOK {
			t.Errorf("a list is not for the stream, whatever it says: header %q: %d %s", value, code, body)
		}
	}
}

// TestStreamedWatchesEnd: their time is looked at once a minute.
func TestStreamedWatchesEnd(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	h := newHarness(t, func(c *gateway.Config) { c.Clock = clk })
	agent := h.agent(t, http.DefaultTransport)
	short := h.watch(t, agent, allServices+"&timeoutSeconds=90&allowWatchBookmarks=true&labelSelector=a%3Db")
	long := h.watch(t, agent, allServices+"&timeoutSeconds=3000")
	h.watchesOpen(t, 2)
	if _, err := h.Shared.CoreV1().Services(ns).Create(t.Context(), sharedService("api", "10.96.0.12", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	long.next("ADDED", `"api"`)
	clk.Step(time.Minute)
	short.next("BOOKMARK", "resourceVersion") // its selector hid the change
	clk.Step(time.Minute)
	if err := short.ends(); err != nil {
		t.Errorf("a watch whose time is over ended with %v", err)
	}
	h.watchesOpen(t, 1)
}
