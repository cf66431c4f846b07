package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/http2"
)

// ServeGateway dials the cell once and then serves h to its agent, until the
// connection or the context ends. ready is called, with the cell's certificate,
// when the agent has let Kip in; it must not block. When ServeGateway returns,
// neither h nor ready is running or will be called.
//
// Errors wrap ErrUnreachable, ErrNotEnrolled, ErrExpired, ErrUntrusted, ErrLost
// (after ready), the context's error, or say what went wrong on the way; it
// never returns nil.
func (d *Dialer) ServeGateway(ctx context.Context, addr, cell string, h http.Handler, ready func(certificate *x509.Certificate)) error {
	// The agent takes the first it can do. Offering both, Kip learns by a
	// finished handshake that the agent is not enrolled, not by guessing what
	// a failed one meant.
	conn, err := d.dial(ctx, addr, cell, []string{protocolGateway, protocolEnrol}, func(session tls.ConnectionState) error {
		switch session.NegotiatedProtocol {
		case protocolGateway:
			return d.verifyCell(session, cell)
		case protocolEnrol:
			return ErrNotEnrolled
		default:
			return fmt.Errorf("%w: it does not speak %s", ErrUntrusted, protocolGateway)
		}
	})
	if err != nil {
		return err
	}
	session := conn.ConnectionState()
	watched := &watchedConn{Conn: conn, heard: func() { ready(session.PeerCertificates[0]) }}
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()

	var requests inFlight
	server := &http2.Server{
		MaxConcurrentStreams: maxStreams,
		MaxReadFrameSize:     maxFrameBytes,
		ReadIdleTimeout:      pingAfter,
		PingTimeout:          pingTimeout,
		WriteByteTimeout:     stallTimeout,
		// Not the decoder's too: http2.Server would hold agents to it before they
		// have heard of it.
		MaxEncoderHeaderTableSize: headerTableBytes,
	}
	server.ServeConn(watched, &http2.ServeConnOpts{
		// Requests end with the connection, not before it: the agent must not
		// take what we cut short for a complete answer.
		Context:    context.WithoutCancel(ctx),
		BaseConfig: &http.Server{ErrorLog: slog.NewLogLogger(d.config.Logger.Handler(), slog.LevelDebug)},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests.begin() {
				defer requests.done()
				h.ServeHTTP(w, r)
			}
		}),
	})
	requests.endAndWait()
	return watched.end(ctx, cell, addr)
}

// inFlight counts the requests under way. http2.Server does not wait for the
// handlers it started; the last of them may even start after it returned.
type inFlight struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// begin is false when no request may start any more.
func (f *inFlight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	f.wg.Add(1)
	return true
}

func (f *inFlight) done() { f.wg.Done() }

func (f *inFlight) endAndWait() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.wg.Wait()
}

// watchedConn tells when the peer was first heard, and remembers why reading
// from it ended.
type watchedConn struct {
	*tls.Conn
	heard func()

	mu       sync.Mutex
	wasHeard bool
	over     bool
	err      error
}

// Read is called by one goroutine at a time.
func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.err == nil {
		c.err = err
	}
	if n > 0 && !c.wasHeard && !c.over {
		c.wasHeard = true
		c.heard()
	}
	return n, err
}

// end returns why the connection ended. When it returns, heard is not running
// and will not be called.
func (c *watchedConn) end(ctx context.Context, cell, addr string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cause := c.err
	switch {
	case cause == nil || errors.Is(cause, net.ErrClosed):
		// We closed it, having heard nothing.
		cause = errors.New("the agent stopped answering")
	case errors.Is(cause, io.EOF):
		cause = errors.New("the agent closed it")
	}
	if !c.wasHeard {
		return fmt.Errorf("the agent of cell %s at %s did not let Kip in: %w", cell, addr, cause)
	}
	return fmt.Errorf("%w: cell %s at %s: %w", ErrLost, cell, addr, cause)
}
