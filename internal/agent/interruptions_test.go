package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/agent/imds"
)

// The notice comes, Kip is away, then refuses, then hears: it is told until it
// has heard, and then not again.
func TestInterruptionsAreToldUntilAcknowledged(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			_, _ = io.WriteString(w, "token")
		case strings.HasSuffix(r.URL.Path, "/spot/instance-action"):
			_, _ = io.WriteString(w, `{"action":"terminate","time":"2026-03-01T08:22:00Z"}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer metadata.Close()

	var mu sync.Mutex
	var attempts int
	var heard []imds.Interruption
	gateway := roundTripper(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		attempts++
		switch attempts {
		case 1:
			return nil, errors.New("Kip is away")
		case 2:
			return &http.Response{StatusCode: http.StatusBadGateway, Body: http.NoBody, Request: r}, nil
		}
		var i imds.Interruption
		if r.Method != http.MethodPost || r.URL.Path != "/kip/v1/interruption" || json.NewDecoder(r.Body).Decode(&i) != nil {
			t.Errorf("Kip got %s %s", r.Method, r.URL.Path)
		}
		heard = append(heard, i)
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
	})

	w := newInterruptions(imds.New(metadata.URL), slog.New(slog.DiscardHandler))
	w.interval = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.watch(ctx, gateway) })
	time.Sleep(500 * time.Millisecond) // many intervals
	cancel()
	wg.Wait()

	want := []imds.Interruption{{Kind: imds.SpotInterruption, Action: "terminate", Time: time.Date(2026, 3, 1, 8, 22, 0, 0, time.UTC)}}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Errorf("Kip heard (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(want, w.list()); diff != "" {
		t.Errorf("the status says (-want +got)\n%s", diff)
	}
}
