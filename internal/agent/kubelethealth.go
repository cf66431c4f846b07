package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/agent/process"
)

const (
	// healthInterval is how often the kubelet is asked how it is, and
	// healthTimeout what its answer may take. Until it is well for the first time
	// it is asked every firstHealthInterval: it might get stuck soon after.
	healthInterval      = 10 * time.Second
	firstHealthInterval = time.Second
	healthTimeout       = 5 * time.Second
	// healthPatience is for how long it may not be well before it is killed and
	// started again. That is sooner than Kip gives up a cell whose kubelet is
	// silent, by default, so that most of them are saved.
	healthPatience = 50 * time.Second
)

// kubeletHealth ends a kubelet that runs and does not work: one that is stopped,
// or whose loops have got stuck. It is started again, and finds its pod's
// containers running. The rest of what may be wrong with it is for Kip to judge.
type kubeletHealth struct {
	client  *http.Client
	service interface {
		State() process.State
		Kill()
	}
	logger *slog.Logger
}

// watch asks in each interval, until ctx ends. A kubelet that has never been
// well, since it was started, is starting.
func (h *kubeletHealth) watch(ctx context.Context) {
	var asked process.State // the process that was asked last
	var well time.Time      // when that one was well; zero: not yet
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if timer.Reset(healthInterval); well.IsZero() {
			timer.Reset(firstHealthInterval)
		}
		now := h.service.State()
		if !now.Running {
			continue
		}
		if now.PID != asked.PID || !now.StartedAt.Equal(asked.StartedAt) {
			asked, well = now, time.Time{}
		}
		err := h.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			well = time.Now()
		case !well.IsZero() && time.Since(well) >= healthPatience:
			h.logger.Error("the kubelet runs and does not work, so it is killed and started again",
				"for", time.Since(well).Round(time.Second).String(), "error", err)
			h.service.Kill()
			well = time.Time{}
		}
	}
}

// ask returns what the kubelet has against itself.
func (h *kubeletHealth) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+kubeletAddress+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("asking the kubelet how it is: %w", err)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return fmt.Errorf("asking the kubelet how it is: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	words, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return fmt.Errorf("the kubelet says %s: %s", resp.Status, words)
}
