package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// DialerConfig is what a Dialer needs. ClientCertificate and Roots are
// required.
type DialerConfig struct {
	// ClientCertificate returns Kip's current client certificate for a server. It
	// is called for every connection.
	ClientCertificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)

	// Roots are Kip's authorities.
	Roots *x509.CertPool

	// CACertificates (PEM) are what agents are told to know Kip by when their
	// certificates are renewed; nothing leaves them what they have.
	CACertificates string

	// DialContext makes the TCP connection; nil means the network, with a
	// dead peer noticed within half a minute. It is called for one attempt
	// and bounded by its context.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Now tells time for certificates; nil means time.Now.
	Now func() time.Time

	// Logger gets what the HTTP libraries complain about, at debug level; nil
	// means slog.Default.
	Logger *slog.Logger
}

const (
	// dialTimeout bounds one attempt to make a TCP connection.
	dialTimeout = time.Second

	// maxHandshakes bounds how many TLS handshakes a Dialer has under way.
	// After a restart Kip dials every cell at once; more handshakes side by
	// side than this would only slow each other down until they time out.
	maxHandshakes = 128
)

// Dialer is Kip's end of the tunnel. One serves all cells; it keeps no state of
// any, and its methods may be called from any goroutine.
type Dialer struct {
	config     DialerConfig
	handshakes *semaphore.Weighted
	attempts   *semaphore.Weighted
}

// NewDialer returns a Dialer. It does not dial.
func NewDialer(config DialerConfig) *Dialer {
	if config.DialContext == nil {
		config.DialContext = networkDialer().DialContext
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Dialer{
		config:     config,
		handshakes: semaphore.NewWeighted(maxHandshakes),
		attempts:   semaphore.NewWeighted(maxExtraAttempts),
	}
}

// Transport returns a transport for the agent's API and the cell's kubelet
// behind it. Whatever host a request's URL names, it goes to this cell; its
// scheme must be https. The transport keeps idle connections: the caller
// closes them when the cell ends.
func (d *Dialer) Transport(addr, cell string) *http.Transport {
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.dial(ctx, addr, cell, []string{protocolAPI}, func(session tls.ConnectionState) error {
				return d.verifyCell(session, cell)
			})
		},
		// The peers of exec and log streams look after compression and
		// timeouts themselves.
		DisableCompression:  true,
		MaxIdleConnsPerHost: 4,
		// A connection that may be used again is no smaller than the gateway's.
		IdleConnTimeout: 15 * time.Second,
	}
}

func (d *Dialer) verifyCell(session tls.ConnectionState, cell string) error {
	return verifyCell(session, d.config.Roots, cell, d.config.Now())
}

// dial makes one connection, with one TCP attempt. verify is the only judge of
// the server's certificate. Note that with TLS 1.3 the handshake may succeed
// here before the server has judged ours: a refusal shows at the first read.
func (d *Dialer) dial(ctx context.Context, addr, cell string, protocols []string, verify func(tls.ConnectionState) error) (*tls.Conn, error) {
	raw, err := d.dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: cell,
		NextProtos: protocols,
		// Not skipped: VerifyConnection does it, with our own clock and roots.
		InsecureSkipVerify:   true, //nolint:gosec // see above
		VerifyConnection:     verify,
		GetClientCertificate: d.config.ClientCertificate,
	})
	if err := d.handshake(ctx, conn); err != nil {
		_ = raw.Close()
		if noProtocol(err) {
			err = ErrIncompatible
		}
		return nil, fmt.Errorf("TLS handshake with cell %s at %s: %w", cell, addr, err)
	}
	return conn, nil
}

// noProtocol tells that the server ended a handshake because it speaks none of
// the protocols that it was offered. crypto/tls has no type for it.
func noProtocol(err error) bool {
	remote, ok := errors.AsType[*net.OpError](err)
	return ok && remote.Op == "remote error" && remote.Err.Error() == "tls: no application protocol"
}

func (d *Dialer) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.config.DialContext(dialCtx, "tcp", addr)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", dialTimeout)
	}
	return nil, fmt.Errorf("%w: dialling %s: %w", ErrUnreachable, addr, err)
}

func (d *Dialer) handshake(ctx context.Context, conn *tls.Conn) error {
	if err := d.handshakes.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.handshakes.Release(1)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	return conn.HandshakeContext(ctx)
}

// networkDialer notices a peer that vanished without a word: by keepalives
// while nothing is under way, by the kernel's user timeout while something is.
func networkDialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         setUserTimeout,
	}
}
