package tunnel

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// awaitInterval is the time between attempts to reach a cell that boots.
	// With it a cell is noticed within 250 ms after it listens, whatever
	// became of the attempts before.
	awaitInterval = 100 * time.Millisecond

	// maxExtraAttempts bounds the attempts that a Dialer has under way beside
	// each waiting cell's first, so that a thousand cells that boot at once do
	// not take ten thousand sockets.
	maxExtraAttempts = 2000
)

// Await returns nil as soon as something accepts TCP connections at the
// address. Until the context ends it makes attempts side by side, each short:
// an instance that boots does not answer at all, and a single attempt would
// then sleep through the moment it comes up. The error wraps ErrUnreachable
// with the last attempt's, and the context's error.
func (d *Dialer) Await(ctx context.Context, addr string) error {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	attemptCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error)
	running := 0
	attempt := func(release func()) {
		running++
		attempts.Go(func() {
			defer release()
			conn, err := d.dialTCP(attemptCtx, addr)
			if err == nil {
				_ = conn.Close()
			}
			select {
			case results <- err:
			case <-attemptCtx.Done():
			}
		})
	}

	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	var last error
	attempt(func() {})
	for {
		select {
		case err := <-results:
			running--
			if err == nil {
				return nil
			}
			if ctx.Err() == nil {
				last = err
			}
		case <-ticker.C:
			if running == 0 {
				attempt(func() {})
			} else if d.attempts.TryAcquire(1) {
				attempt(func() { d.attempts.Release(1) })
			}
		case <-ctx.Done():
			if last == nil {
				last = fmt.Errorf("%w: dialling %s", ErrUnreachable, addr)
			}
			return fmt.Errorf("%w: %w", last, context.Cause(ctx))
		}
	}
}
