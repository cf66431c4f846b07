package connection

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// Dialer is what sessions do over the network; *tunnel.Dialer says what each
// method does and returns. All but Transport block and end with their context;
// all may be called from many goroutines.
type Dialer interface {
	Await(ctx context.Context, addr string) error
	Enrol(ctx context.Context, addr, cell, token string, sign tunnel.SignFunc) error
	Renew(ctx context.Context, addr, cell, keySHA256 string, sign tunnel.SignFunc) error
	ServeGateway(ctx context.Context, addr, cell string, h http.Handler, ready func(*x509.Certificate)) error
	Transport(addr, cell string) *http.Transport
}

var _ Dialer = (*tunnel.Dialer)(nil)

// Config is what a Manager needs from outside. All but Address and OnConnect are
// required.
type Config struct {
	// NodeName is the virtual node whose cells to connect to.
	NodeName string

	// Client reads Cells, from a cache, and patches their status.
	Client client.Client
	// Live reads Cells from the API server itself.
	Live client.Reader

	// Authorities are what the Dialer trusts and tells agents of. The first signs.
	Authorities *pki.Authorities
	Dialer      Dialer
	// Gateway returns what answers a cell's requests. It is called for every
	// connection.
	Gateway func(cell string) http.Handler

	// Address is where a cell's agent listens, empty if that is not known yet;
	// nil means the instance's primary address and tunnel.Port.
	Address func(*v1beta1.Cell) string

	// OnConnect, if set, is called when a cell is connected, anew or again, and
	// must not wait.
	OnConnect func(cell string)

	Clock   clock.Clock
	Events  record.EventRecorder
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Manager owns the sessions. It is registered by SetupWithManager; Start owns
// all goroutines.
type Manager struct {
	cfg     Config
	metrics *metrics

	ctx    context.Context //nolint:containedctx // the sessions' life; ended by Start
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.RWMutex
	stopped  bool
	sessions map[string]*session
}

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Manager, error) {
	switch {
	case cfg.Client == nil, cfg.Live == nil, cfg.Authorities == nil, cfg.Dialer == nil, cfg.Gateway == nil,
		cfg.Clock == nil, cfg.Events == nil, cfg.Metrics == nil, cfg.Logger == nil:
		return nil, errors.New("connection: every field of Config but Address and OnConnect must be set")
	case cfg.NodeName == "":
		return nil, errors.New("connection: node name is empty")
	}
	if cfg.Address == nil {
		cfg.Address = primaryAddress
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{cfg: cfg, ctx: ctx, cancel: cancel, sessions: map[string]*session{}}
	var err error
	if m.metrics, err = newMetrics(cfg.Metrics, m.untold); err != nil {
		cancel()
		return nil, err
	}
	return m, nil
}

func primaryAddress(cell *v1beta1.Cell) string {
	if cell.Status.PrimaryIP == "" {
		return ""
	}
	return net.JoinHostPort(cell.Status.PrimaryIP, strconv.Itoa(tunnel.Port))
}

// Start renews certificates until the context ends. It returns when all
// sessions have ended.
func (m *Manager) Start(ctx context.Context) error {
	m.renewUntil(ctx)
	m.mu.Lock()
	m.stopped = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	return nil
}

// ErrNotConnected says that Kip has no connection to the cell now. Errors that
// wrap it are NotConnectedErrors.
var ErrNotConnected = errors.New("the cell is not connected")

// NotConnectedError says what a cell that cannot be reached waits for.
type NotConnectedError struct {
	Cell string
	// Waiting is a clause for users: "its agent does not listen at … yet".
	Waiting string
}

func (e *NotConnectedError) Error() string {
	return fmt.Sprintf("cell %s is not connected: %s", e.Cell, e.Waiting)
}

func (e *NotConnectedError) Unwrap() error { return ErrNotConnected }

// Connected is whether the cell's gateway is connected now.
func (m *Manager) Connected(cell string) bool {
	s := m.session(cell)
	return s != nil && s.isConnected()
}

// Listens is whether the cell's agent was reached since Kip looks for it. Of a cell
// that is connected again it says nothing.
func (m *Manager) Listens(cell string) bool {
	s := m.session(cell)
	return s != nil && s.isListening()
}

// Transport returns what sends requests to the cell's agent, which has its own
// paths under /kip/v1/ and the kubelet's under /kubelet/. The host of the
// requests' URLs does not matter. The transport is good as long as the cell
// is; it is to be asked for anew for each use. The error is a
// NotConnectedError.
func (m *Manager) Transport(cell string) (http.RoundTripper, error) {
	s := m.session(cell)
	if s == nil {
		return nil, &NotConnectedError{Cell: cell, Waiting: "it has no instance with an address"}
	}
	return s.getTransport()
}

func (m *Manager) session(cell string) *session {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.sessions[cell]
}

// begin makes a session for this target, in place of whatever session the cell
// had.
func (m *Manager) begin(t target, launch *v1beta1.LaunchStatus, keySHA256 string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return
	}
	if old := m.sessions[t.cell]; old != nil {
		old.cancel()
	}
	ctx, cancel := context.WithCancel(m.ctx)
	s := newSession(m, t, launch, keySHA256, cancel)
	m.sessions[t.cell] = s
	m.wg.Go(func() {
		defer cancel()
		s.run(ctx)
	})
}

// end cancels the cell's session, if it has one. It does not wait for it.
func (m *Manager) end(cell string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[cell]; s != nil {
		s.cancel()
		delete(m.sessions, cell)
	}
}

// sleep is false when the context ended first.
func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := m.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}
