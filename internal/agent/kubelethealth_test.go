package agent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/elotl/kip/v2/internal/agent/process"
)

// patient is a kubelet that can be in a bad state, and what keeps it running.
type patient struct {
	mu     sync.Mutex
	state  process.State
	answer string // "ok", "stuck" (it answers so), "silent" (it does not answer)
	killed int
}

func (p *patient) State() process.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Kill starts the next process at once.
func (p *patient) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed++
	p.state.PID, p.state.StartedAt = p.state.PID+1, time.Now()
}

func (p *patient) becomes(answer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *patient) wantKilled(t *testing.T, times int) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed != times {
		t.Fatalf("killed %d times, want %d", p.killed, times)
	}
}

func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	answer := p.answer
	p.mu.Unlock()
	resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(answer)), Request: r}
	switch {
	case r.URL.String() != "https://127.0.0.1:10250/healthz":
		resp.StatusCode = http.StatusNotFound
	case answer == "silent":
		<-r.Context().Done()
		return nil, r.Context().Err()
	case answer == "stuck":
		resp.StatusCode = http.StatusInternalServerError
	}
	return resp, nil
}

// A kubelet that is stuck is ended, once, and the one that takes its place has
// its time to start.
func TestKubeletIsEndedWhenItDoesNotWork(t *testing.T) {
	for _, bad := range []string{"stuck", "silent"} {
		t.Run(bad, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &patient{answer: bad, state: process.State{Running: true, PID: 7, StartedAt: time.Now()}}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					(&kubeletHealth{client: &http.Client{Transport: p}, service: p, logger: slog.New(slog.DiscardHandler)}).watch(ctx)
				})
				time.Sleep(time.Hour) // it waits for Kip, perhaps
				p.wantKilled(t, 0)
				p.becomes("ok")
				time.Sleep(time.Hour)
				p.wantKilled(t, 0)

				p.becomes(bad)
				time.Sleep(healthPatience - 2*healthInterval)
				p.becomes("ok") // it passed
				time.Sleep(time.Minute)
				p.wantKilled(t, 0)

				p.becomes(bad)
				time.Sleep(healthPatience + 3*healthInterval)
				p.wantKilled(t, 1)
				time.Sleep(time.Hour)
				p.wantKilled(t, 1)
				p.becomes("ok")
				time.Sleep(healthTimeout + 2*firstHealthInterval)
				p.becomes(bad) // soon after it was well for the first time
				time.Sleep(healthPatience + 3*healthInterval)
				p.wantKilled(t, 2)
				cancel()
				wg.Wait()
			})
		})
	}
}

// One that is being started again by itself is not meant.
func TestKubeletThatDoesNotRunIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &patient{answer: "ok", state: process.State{Running: true, PID: 7, StartedAt: time.Now()}}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			(&kubeletHealth{client: &http.Client{Transport: p}, service: p, logger: slog.New(slog.DiscardHandler)}).watch(ctx)
		})
		time.Sleep(time.Minute)
		p.mu.Lock()
		p.state.Running, p.answer = false, "silent"
		p.mu.Unlock()
		time.Sleep(time.Hour)
		p.mu.Lock()
		p.state = process.State{Running: true, PID: 7, StartedAt: time.Now()} // the same number, another process
		p.mu.Unlock()
		time.Sleep(time.Hour)
		p.wantKilled(t, 0)
		cancel()
		wg.Wait()
	})
}
