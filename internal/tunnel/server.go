package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/pki"
)

// ServerConfig is what a Server needs. All but Version, Logger and Now is
// required.
type ServerConfig struct {
	// Cell, CACertificates (PEM) and EnrolmentToken are those of user data.
	// An agent that is enrolled already never looks at the token.
	Cell           string
	CACertificates string
	EnrolmentToken string

	// Store keeps the agent's key and certificate.
	Store Store

	// API answers Kip's requests, but for those to the paths of package
	// enrolment, which the Server answers itself.
	API http.Handler

	// Version is the agent's, for Kip's logs.
	Version string

	// Logger; nil means slog.Default.
	Logger *slog.Logger

	// Now tells time for certificates; nil means time.Now.
	Now func() time.Time
}

// maxConnections is how many connections the agent holds at a time: Kip's own
// few, one for each exec or log stream, and whatever else knocks at the port,
// which is gone after handshakeTimeout.
const maxConnections = 1000

// Server is the agent's end of the tunnel.
type Server struct {
	config  ServerConfig
	gateway gateway

	// key stays the same for the Server's life, whatever certificates come.
	key *ecdsa.PrivateKey

	// enrolled is closed once there is a certificate.
	enrolled chan struct{}

	mu          sync.Mutex
	clients     *x509.CertPool // whom to take for Kip
	authorities []byte         // the same as PEM, if not user data's
	certificate *tls.Certificate
	token       []byte // nil once enrolled
}

// NewServer loads the agent's identity, or makes and keeps a new one. It opens
// no port.
func NewServer(config ServerConfig) (*Server, error) {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	identity, err := loadOrCreate(config.Store)
	if err != nil {
		return nil, err
	}
	authorities := identity.CACertificates
	if len(authorities) == 0 {
		authorities = []byte(config.CACertificates)
	}
	clients, err := poolOf(authorities)
	if err != nil {
		return nil, err
	}
	s := &Server{
		config:      config,
		clients:     clients,
		authorities: identity.CACertificates,
		enrolled:    make(chan struct{}),
		key:         identity.Key,
	}
	s.gateway.now = config.Now
	s.gateway.changed = make(chan struct{})
	s.gateway.lastContact = config.Now()
	if len(identity.CertificatePEM) > 0 {
		// It may have expired while the agent was down: Kip renews it then.
		s.certificate, err = s.parseCertificate(identity.CertificatePEM, clients)
		close(s.enrolled)
	} else {
		s.certificate, err = selfSigned(identity.Key, config.Cell)
		s.token = []byte(config.EnrolmentToken)
	}
	if err != nil {
		return nil, err
	}
	s.config.EnrolmentToken = ""
	return s, nil
}

// poolOf reads certificates of authorities (PEM).
func poolOf(authorities []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return nil, errors.New("there is no CA certificate to know Kip by")
	}
	return pool, nil
}

// Enrolled returns a channel that is closed once Kip has signed a certificate
// for the agent.
func (s *Server) Enrolled() <-chan struct{} { return s.enrolled }

// Gateway returns what sends requests to Kip's gateway. Scheme and host of a
// request's URL do not matter. A request waits, bounded by its context, until
// Kip has connected. When the connection ends while it is under way, the error,
// of RoundTrip or of reading the answer's body, wraps ErrGatewayLost.
func (s *Server) Gateway() http.RoundTripper { return &s.gateway }

// LastContact is when Kip was connected to the agent last: now, while it is;
// the Server's own start, if it never was.
func (s *Server) LastContact() time.Time { return s.gateway.lastSeen() }

// Serve answers Kip on the listener, which it closes, until the context ends.
// When it returns, no connection is open and no goroutine of it is left. The
// error is that of the listener, or nil when the context ended. It is called once.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	tracked := newTrackingListener(listener, maxConnections)
	var requests inFlight
	api := s.apiHandler()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests.begin() {
				defer requests.done()
				api.ServeHTTP(w, r)
			}
		}),
		// It bounds the TLS handshake too. There is no timeout for whole
		// requests: log and exec streams last for hours.
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       3 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		// An entry for every protocol but http/1.1, which is the default.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			protocolEnrol: func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
				if requests.begin() {
					defer requests.done()
					s.serveEnrolment(conn)
				}
			},
			protocolGateway: func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
				if requests.begin() {
					defer requests.done()
					s.gateway.use(conn, s.config.Logger)
				}
			},
		},
	}
	// Hijacked connections are not the http.Server's any more; closing them
	// below the TLS ends them all.
	stop := context.AfterFunc(ctx, tracked.closeAll)
	defer stop()
	err := server.Serve(tls.NewListener(tracked, s.tlsConfig()))
	tracked.closeAll()
	requests.endAndWait()
	_ = server.Shutdown(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving Kip: %w", err)
}

// tlsConfig demands Kip's certificate of every client, before anything else.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			s.mu.Lock()
			certificate, clients, enrolled := s.certificate, s.clients, s.token == nil
			s.mu.Unlock()
			protocols := []string{protocolEnrol}
			if enrolled {
				protocols = []string{protocolGateway, protocolAPI, protocolEnrol}
			}
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				Certificates:           []tls.Certificate{*certificate},
				NextProtos:             protocols,
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              clients,
				VerifyConnection:       verifyKip,
				SessionTicketsDisabled: true,
				Time:                   s.config.Now,
			}, nil
		},
	}
}

// apiHandler is what Kip reaches of an enrolled agent.
func (s *Server) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+enrolment.CertificatePath, s.postCertificate)
	mux.Handle("/", s.config.API)
	return mux
}

// parseCertificate reads a certificate of one of the authorities, those that the
// agent knows if nil, that is for this agent's key, cell and use. It may have expired.
func (s *Server) parseCertificate(text []byte, authorities *x509.CertPool) (*tls.Certificate, error) {
	if authorities == nil {
		s.mu.Lock()
		authorities = s.clients
		s.mu.Unlock()
	}
	leaf, err := pki.ParseCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("the agent's certificate: %w", err)
	}
	if !s.key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the agent's certificate is for another key")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:       authorities,
		DNSName:     s.config.Cell,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CurrentTime: leaf.NotAfter,
	}); err != nil {
		return nil, fmt.Errorf("the agent's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: s.key, Leaf: leaf}, nil
}
