package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/agent/imds"
)

const (
	// interruptionInterval is how often notices are looked for. Kip is to know
	// within five seconds, and EC2 gives two minutes.
	interruptionInterval = 2 * time.Second
	// interruptionTimeout bounds one report to Kip.
	interruptionTimeout = 5 * time.Second

	interruptionURL = "https://kip/kip/v1/interruption"
)

// interruptions watches for the cloud's notices and tells Kip of each until Kip
// has said that it heard.
type interruptions struct {
	metadata *imds.Client
	logger   *slog.Logger
	interval time.Duration

	mu   sync.Mutex
	seen []imds.Interruption
}

func newInterruptions(metadata *imds.Client, logger *slog.Logger) *interruptions {
	return &interruptions{metadata: metadata, logger: logger, interval: interruptionInterval}
}

// list returns what was seen so far.
func (w *interruptions) list() []imds.Interruption {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// watch runs until ctx ends.
func (w *interruptions) watch(ctx context.Context, gateway http.RoundTripper) {
	client := &http.Client{Transport: gateway, Timeout: interruptionTimeout}
	told := map[string]bool{}
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		found, err := w.metadata.Interruptions(ctx)
		if err != nil {
			w.logger.Debug("looking for interruption notices", "error", err)
		}
		for _, i := range found {
			w.note(i)
		}
		// All that were ever seen: a recommendation may be withdrawn before
		// Kip could be told, and is news all the same.
		for _, i := range w.list() {
			key := key(i)
			if told[key] {
				continue
			}
			if err := tell(ctx, client, i); err != nil {
				w.logger.Warn("Kip does not know of the interruption yet", "kind", i.Kind, "error", err)
				continue
			}
			told[key] = true
		}
	}
}

// note remembers a notice and logs it the first time.
func (w *interruptions) note(i imds.Interruption) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.seen, func(s imds.Interruption) bool { return key(s) == key(i) }) {
		return
	}
	w.seen = append(w.seen, i)
	w.logger.Warn("the cloud announced an interruption", "kind", i.Kind, "action", i.Action, "time", i.Time)
}

// key tells notices apart; a repeated one has the same.
func key(i imds.Interruption) string {
	return i.Kind + "/" + i.Action + "/" + i.Time.UTC().Format(time.RFC3339Nano)
}

// tell reports the notice over the gateway connection, and succeeds when Kip
// acknowledged it.
func tell(ctx context.Context, client *http.Client, i imds.Interruption) error {
	body, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("telling Kip of an interruption: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, interruptionURL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("telling Kip of an interruption: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("telling Kip of an interruption: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("telling Kip of an interruption: status %d", resp.StatusCode)
	}
	return nil
}
