package tunnel

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

const (
	cellName = "cell-a"
	token    = "the one-time token of cell-a"
)

// world is one Kip's authority and its Dialer.
type world struct {
	authority *pki.Authority
	dialer    *Dialer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	noLeak(t)
	return newWorldInBubble(t)
}

// newWorldInBubble is for tests in a synctest bubble, which itself fails a test
// that leaves goroutines behind.
func newWorldInBubble(t *testing.T) *world {
	t.Helper()
	authority, err := pki.Create(time.Now().Add(-5 * 24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{authority: authority}
	w.dialer = w.dialerFor(authority, DialerConfig{})
	return w
}

// dialerFor returns Kip's Dialer, with the certificate of the authority given.
func (w *world) dialerFor(authority *pki.Authority, config DialerConfig) *Dialer {
	if config.Now == nil {
		config.Now = time.Now
	}
	config.ClientCertificate = pki.NewClient(pki.NewAuthorities(authority), config.Now).Certificate
	config.Roots = w.authority.Roots()
	config.Logger = quiet()
	return NewDialer(config)
}

// sign signs for the cell whatever key it is given.
func (w *world) sign(_ context.Context, pub crypto.PublicKey, _ string) ([]byte, error) {
	return w.authority.SignCell(pub, cellName, time.Now())
}

// config is that of an agent whose API says "hello" at /kip/v1/status.
func (w *world) config(store Store) ServerConfig {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /kip/v1/status", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "hello")
	})
	return ServerConfig{
		Cell:           cellName,
		CACertificates: string(w.authority.CertificatePEM()),
		EnrolmentToken: token,
		Store:          store,
		API:            mux,
		Version:        "test",
		Logger:         quiet(),
	}
}

// agent runs an agent until the test ends.
func (w *world) agent(t *testing.T, config ServerConfig) (*Server, string) {
	t.Helper()
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := serve(t, s)
	t.Cleanup(stop)
	return s, addr
}

// enrolled runs an agent that has enrolled.
func (w *world) enrolled(t *testing.T) (*Server, string) {
	t.Helper()
	s, addr := w.agent(t, w.config(&memoryStore{}))
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign); err != nil {
		t.Fatal(err)
	}
	return s, addr
}

// serve runs the agent on loopback. stop may be called more than once.
func serve(t *testing.T, s *Server) (addr string, stop func()) {
	t.Helper()
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return l.Addr().String(), sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// gatewaySession is a Kip that serves its gateway to an agent.
type gatewaySession struct {
	ready chan *x509.Certificate
	stop  func() error
	ended chan error
}

func startGateway(t *testing.T, d *Dialer, addr string, h http.Handler) *gatewaySession {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &gatewaySession{ready: make(chan *x509.Certificate, 1), ended: make(chan error, 1)}
	go func() {
		s.ended <- d.ServeGateway(ctx, addr, cellName, h, func(c *x509.Certificate) { s.ready <- c })
	}()
	var err error
	end := sync.OnceFunc(func() {
		cancel()
		err = <-s.ended
	})
	s.stop = func() error {
		end()
		return err
	}
	t.Cleanup(end)
	return s
}

func (s *gatewaySession) wait(t *testing.T) *x509.Certificate {
	t.Helper()
	select {
	case c := <-s.ready:
		return c
	case err := <-s.ended:
		s.ended <- err
		t.Fatalf("the gateway ended before it was ready: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("the gateway is not ready after 10 s")
	}
	return nil
}

// get sends a request through the agent to Kip's gateway.
func get(ctx context.Context, s *Server, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:6443"+path, nil)
	if err != nil {
		return nil, err
	}
	return s.Gateway().RoundTrip(req)
}

func body(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// memoryStore keeps an identity in memory.
type memoryStore struct {
	mu    sync.Mutex
	id    Identity
	saves int
	err   error
}

func (m *memoryStore) Load() (Identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.saves == 0 {
		return Identity{}, fs.ErrNotExist
	}
	return m.id, nil
}

func (m *memoryStore) Save(id Identity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.id = id
	m.saves++
	return nil
}

// noLeak fails the test if it leaves goroutines behind.
func noLeak(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		var after int
		for range 200 {
			if after = runtime.NumGoroutine(); after <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		var stacks bytes.Buffer
		buf := make([]byte, 1<<20)
		stacks.Write(buf[:runtime.Stack(buf, true)])
		t.Errorf("%d goroutines before, %d after:\n%s", before, after, stacks.String())
	})
}

// rawTLS dials as whoever has this certificate; it verifies nothing.
func rawTLS(t *testing.T, addr string, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	config.InsecureSkipVerify = true
	config.ServerName = cellName
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, config)
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	}
	return conn, err
}

func wantError(t *testing.T, reason string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s\ngot error %v, want %v", reason, err, want)
	}
}
