package tunnel

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwait(t *testing.T) {
	const bootTime = 3*time.Second + 37*time.Millisecond
	refuse := func(context.Context) error { return syscall.ECONNREFUSED }
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	slowError := func(ctx context.Context) error {
		select {
		case <-time.After(900 * time.Millisecond):
			return syscall.EHOSTUNREACH
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	cases := map[string]struct {
		reason string
		before func(context.Context) error
	}{
		"Refused":     {reason: "The instance is up, the agent is not.", before: refuse},
		"Silence":     {reason: "The instance is not up: nothing answers at all.", before: hang},
		"Unreachable": {reason: "The router says that nobody has the address, late.", before: slowError},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var attempts atomic.Int32
				d := NewDialer(DialerConfig{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					attempts.Add(1)
					if time.Since(start) < bootTime {
						return nil, tc.before(ctx)
					}
					a, b := net.Pipe()
					_ = b.Close()
					return a, nil
				}})
				if err := d.Await(t.Context(), "cell:6421"); err != nil {
					t.Fatalf("%s\n%v", tc.reason, err)
				}
				if late := time.Since(start) - bootTime; late > 250*time.Millisecond {
					t.Errorf("%s\nnoticed %s late", tc.reason, late)
				}
				if n := attempts.Load(); n > 40 {
					t.Errorf("%s\n%d attempts in 3 s", tc.reason, n)
				}
			})
		})
	}
}

func TestAwaitGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer(DialerConfig{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, syscall.ECONNREFUSED
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := d.Await(ctx, "cell:6421")
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("gave up after %s, want 10s", d)
		}
		for _, want := range []error{ErrUnreachable, context.DeadlineExceeded, syscall.ECONNREFUSED} {
			if !errors.Is(err, want) {
				t.Errorf("the error %v does not say %v", err, want)
			}
		}
	})
}

// Many cells that boot at once share the attempts, and each keeps trying.
func TestAwaitManyCells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open, most atomic.Int32
		d := NewDialer(DialerConfig{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			n := open.Add(1)
			defer open.Add(-1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		const cells = 500
		done := make(chan error, cells)
		for range cells {
			go func() { done <- d.Await(ctx, "cell:6421") }()
		}
		for range cells {
			if err := <-done; !errors.Is(err, ErrUnreachable) {
				t.Error(err)
			}
		}
		if m := most.Load(); m > cells+maxExtraAttempts {
			t.Errorf("%d attempts at a time, want at most %d", m, cells+maxExtraAttempts)
		}
	})
}
