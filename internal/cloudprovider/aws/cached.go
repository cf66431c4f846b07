package aws

import (
	"context"
	"time"

	"k8s.io/utils/clock"
)

// staleRetry is how long an old value stands in after reading it anew failed.
const staleRetry = 10 * time.Second

// cached is a value read from EC2 and kept for a while. Of callers that need
// it at the same time one reads and the others wait for it.
type cached[T any] struct {
	turn  chan struct{} // holds a token while someone reads or writes the rest
	value T
	have  bool
	until time.Time
}

func newCached[T any]() *cached[T] { return &cached[T]{turn: make(chan struct{}, 1)} }

// get returns the value, read anew if it is older than ttl. When that fails an
// old value is returned, with the error beside it for the caller to log.
func (c *cached[T]) get(ctx context.Context, clk clock.PassiveClock, ttl time.Duration, read func(context.Context) (T, error)) (value T, stale, err error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return value, nil, ctx.Err()
	}
	if c.have && clk.Now().Before(c.until) {
		return c.value, nil, nil
	}
	fresh, err := read(ctx)
	switch {
	case err == nil:
		c.value, c.have, c.until = fresh, true, clk.Now().Add(ttl)
		return fresh, nil, nil
	case c.have:
		c.until = clk.Now().Add(staleRetry)
		return c.value, err, nil
	default:
		return value, nil, err
	}
}

// expire makes the next get read anew: the value was seen to be wrong, or
// might be. It stays as a stand-in.
func (c *cached[T]) expire() {
	c.turn <- struct{}{}
	c.until = time.Time{}
	<-c.turn
}
