package kip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
)

func TestCachesRead(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		synced bool
	}{
		"Reading": {"a Kip that does not know its pods yet is not counted on", false},
		"Read":    {"from then on it works", true},
	} {
		t.Run(name, func(t *testing.T) {
			check := cachesRead(&informertest.FakeInformers{Synced: &tc.synced})
			if err := check(httptest.NewRequest("GET", "/readyz", nil)); (err == nil) != tc.synced {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}

// Who stands by is as ready as who leads, and says which it is.
func TestReadySaysWhoLeads(t *testing.T) {
	away := errors.New("pods and cells were not read yet")
	for name, tc := range map[string]struct {
		check error
		leads bool
		state string
		err   error
	}{
		"Leads":    {leads: true, state: "leader"},
		"StandsBy": {state: "standby"},
		"NotReady": {check: away, leads: true, err: away},
	} {
		t.Run(name, func(t *testing.T) {
			var p probes
			p.readyWhen(func(*http.Request) error { return tc.check }, func() bool { return tc.leads })
			state, err := p.readyz(httptest.NewRequest("GET", "/readyz", nil))
			if state != tc.state || !errors.Is(err, tc.err) {
				t.Errorf("%q, %v", state, err)
			}
		})
	}
}

// Kip waits for an API server that does not answer. It is not ready, and it
// lives: nobody has a reason to start it again.
func TestProbesWhileTheAPIServerIsAway(t *testing.T) {
	asked := make(chan struct{}, 100)
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer away.Close()
	dir := t.TempDir()
	files := map[string]string{
		"provider.yaml": "cloud: {aws: {region: us-west-2, subnetID: subnet-1}}\n",
		"kubeconfig": fmt.Sprintf("clusters: [{name: c, cluster: {server: %s}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n",
			away.URL),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{
			ProviderConfig: filepath.Join(dir, "provider.yaml"), Kubeconfig: filepath.Join(dir, "kubeconfig"), HealthListen: address,
		}, slog.New(slog.DiscardHandler))
	}()
	select {
	case <-asked:
	case err := <-ended:
		t.Fatalf("Kip ended: %v", err)
	}
	for path, want := range map[string]struct {
		code int
		says string
	}{
		"/healthz": {http.StatusOK, "ok"},
		"/readyz":  {http.StatusInternalServerError, "waiting for the API server"},
	} {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want.code || !strings.Contains(string(body), want.says) {
			t.Errorf("%s: %s, %q, %v", path, resp.Status, body, err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Kip was told to end: %v", err)
	}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatalf("the probes outlive Kip: %v", err)
	}
	l.Close()
}
