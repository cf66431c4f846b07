package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/agent/localapi"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/userdata"
)

func newTestAPI(t *testing.T, toKubelet http.Handler) (*Agent, *httptest.Server) {
	t.Helper()
	a := New(Config{Version: "v2.0.0", StartedAt: time.Now(), PodLogDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	server := httptest.NewServer(a.handler(userdata.Document{Cell: "cell-1"}, toKubelet))
	t.Cleanup(server.Close)
	return a, server
}

func TestStatus(t *testing.T) {
	a, server := newTestAPI(t, http.NotFoundHandler())
	a.timeline.Reach(status.StepListening)
	resp, err := http.Get(server.URL + "/kip/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s status.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if s.Version != "v2.0.0" || s.Cell != "cell-1" || len(s.Boot) != 1 || len(s.Memory) == 0 || s.Memory[0].AnonymousKiB == 0 {
		t.Errorf("status %+v", s)
	}
}

func TestPowerOff(t *testing.T) {
	a, server := newTestAPI(t, http.NotFoundHandler())
	for range 2 { // Kip may repeat it
		resp, err := http.Post(server.URL+"/kip/v1/poweroff", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	select {
	case <-a.powerOff:
	default:
		t.Error("nothing happened")
	}
}

func TestKubeletPathsLoseTheirPrefix(t *testing.T) {
	_, server := newTestAPI(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen", r.URL.RequestURI())
	}))
	resp, err := http.Get(server.URL + "/kubelet/containerLogs/ns/pod/c?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Seen"); got != "/containerLogs/ns/pod/c?follow=true" {
		t.Errorf("the kubelet sees %q", got)
	}
}

func TestPodLogs(t *testing.T) {
	a, server := newTestAPI(t, http.NotFoundHandler())
	dir := filepath.Join(a.PodLogDir, "ns_pod_uid", "c")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0.log"), []byte("a line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/ns_pod_uid/c/0.log": "200 a line\n",
		"/ns_pod_uid/c/1.log": "404 404 page not found\n",
		"/../../etc/hostname": "404 404 page not found\n",
	} {
		resp, err := http.Get(server.URL + "/kip/v1/podlogs" + path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("%d %s", resp.StatusCode, text); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// A log that is held outlives its file, and goes on.
func TestPodLogsAreHeld(t *testing.T) {
	a, server := newTestAPI(t, http.NotFoundHandler())
	dir := filepath.Join(a.PodLogDir, "ns_pod_uid", "c")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	write := func(text string) {
		if _, err := log.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	get := func(run string) string {
		resp, err := http.Get(server.URL + "/kip/v1/podlogs/ns_pod_uid/c/" + run)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s", resp.StatusCode, text)
	}
	write("before\n")
	for range 2 { // Kip may repeat it
		resp, err := http.Post(server.URL+"/kip/v1/podlogs/hold", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("holding: %s", resp.Status)
		}
	}
	write("after\n")
	if got := get("0.log"); got != "200 before\nafter\n" {
		t.Errorf("while it is there: %q", got)
	}
	if err := os.RemoveAll(filepath.Join(a.PodLogDir, "ns_pod_uid")); err != nil {
		t.Fatal(err)
	}
	write("at the end\n")
	if got := get("0.log"); got != "200 before\nafter\nat the end\n" {
		t.Errorf("when it was removed: %q", got)
	}
	if got := get("1.log"); got != "404 404 page not found\n" {
		t.Errorf("a log that was not there: %q", got)
	}
}

func TestKubeletIsDown(t *testing.T) {
	authority, err := localapi.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	transport, err := newKubeletTransport(authority)
	if err != nil {
		t.Fatal(err)
	}
	_, server := newTestAPI(t, newKubeletProxy(transport, slog.New(slog.DiscardHandler)))
	resp, err := http.Get(server.URL + "/kubelet/pods")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("status %d, want 502", resp.StatusCode)
	}
}
