package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// gateway is the agent's http.RoundTripper to Kip's gateway. It has at most one
// connection: the one Kip made last. A Kip that failed over, or lost sight of
// its old connection before the agent did, dials anew, and is then the one to
// talk to.
type gateway struct {
	now func() time.Time

	mu          sync.Mutex
	current     *gatewayConn
	changed     chan struct{} // closed, and made anew, when current changes
	lastContact time.Time     // while there is no current
}

type gatewayConn struct {
	*http2.ClientConn
	ended <-chan struct{}
}

// use serves requests over the connection until it ends or another replaces it.
func (g *gateway) use(conn *tls.Conn, logger *slog.Logger) {
	ended := make(chan struct{})
	transport := &http2.Transport{
		DisableCompression:         true,
		StrictMaxConcurrentStreams: true,
		MaxReadFrameSize:           maxFrameBytes,
		ReadIdleTimeout:            pingAfter,
		PingTimeout:                pingTimeout,
		WriteByteTimeout:           stallTimeout,
	}
	client, err := transport.NewClientConn(&endingConn{Conn: conn, ended: ended})
	if err != nil {
		logger.Warn("the connection of Kip's gateway failed at once", "kip", conn.RemoteAddr().String(), "err", err)
		return
	}
	mine := &gatewayConn{ClientConn: client, ended: ended}
	if old := g.replace(mine); old != nil {
		logger.Info("Kip connected anew", "kip", conn.RemoteAddr().String())
		_ = old.Close()
	} else {
		logger.Info("Kip connected", "kip", conn.RemoteAddr().String())
	}
	<-ended
	if g.forget(mine) {
		logger.Info("Kip is gone", "kip", conn.RemoteAddr().String())
	}
}

func (g *gateway) replace(conn *gatewayConn) (old *gatewayConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old, g.current = g.current, conn
	close(g.changed)
	g.changed = make(chan struct{})
	return old
}

// forget is false if another connection has replaced this one.
func (g *gateway) forget(conn *gatewayConn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != conn {
		return false
	}
	g.current = nil
	g.lastContact = g.now()
	return true
}

func (g *gateway) lastSeen() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current != nil {
		return g.now()
	}
	return g.lastContact
}

// wait returns a connection that takes requests.
func (g *gateway) wait(ctx context.Context) (*gatewayConn, error) {
	for {
		g.mu.Lock()
		current, changed := g.current, g.changed
		g.mu.Unlock()
		if current == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("waiting for Kip to connect: %w", context.Cause(ctx))
			}
		}
		if current.CanTakeNewRequest() {
			return current, nil
		}
		// It is ending; what comes next is either of these.
		select {
		case <-changed:
		case <-current.ended:
			g.forget(current)
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for Kip to connect: %w", context.Cause(ctx))
		}
	}
}

// RoundTrip implements http.RoundTripper.
func (g *gateway) RoundTrip(req *http.Request) (*http.Response, error) {
	conn, err := g.wait(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	out := req.WithContext(req.Context())
	target := *req.URL
	target.Scheme, target.Host = "https", "kip"
	out.URL = &target
	resp, err := conn.RoundTrip(out)
	if err != nil {
		return nil, conn.explain(req.Context(), err)
	}
	resp.Request = req
	resp.Body = &gatewayBody{ReadCloser: resp.Body, conn: conn, ctx: req.Context()}
	return resp, nil
}

// explain tells an error that the connection's end caused from one of this
// request alone.
func (c *gatewayConn) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if c.State().Closed || c.State().Closing {
		return fmt.Errorf("%w: %w", ErrGatewayLost, err)
	}
	return err
}

// gatewayBody explains errors that come in the midst of an answer, as a watch's
// do.
type gatewayBody struct {
	io.ReadCloser
	conn *gatewayConn
	ctx  context.Context //nolint:containedctx // the request's, which the body belongs to
}

func (b *gatewayBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.conn.explain(b.ctx, err)
	}
	return n, err
}

// endingConn closes a channel when it is closed: http2.ClientConn closes its
// connection when it is done with it, and tells nobody else.
type endingConn struct {
	*tls.Conn
	once  sync.Once
	ended chan<- struct{}
}

func (c *endingConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.ended) })
	return err
}
