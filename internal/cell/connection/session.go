package connection

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// target is one instance of one Cell object. Another instance, or another Cell
// of the same name, is another target and gets another session.
type target struct {
	cell     string
	uid      types.UID
	instance string
	addr     string
	// first: the instance boots only to be stopped, and is not to be enrolled.
	first bool
}

// session is Kip's relation to one target. run is its only goroutine.
type session struct {
	target
	m      *Manager
	cancel context.CancelFunc
	log    *slog.Logger
	begun  time.Time
	// launched are the authorities that user data named.
	launched *pki.Authorities

	mu          sync.Mutex
	keySHA256   string            // of the key that enrolled; empty before
	certificate *x509.Certificate // the agent's newest that we know of
	listening   bool              // its agent was reached
	connected   bool
	waiting     string // a clause: what it waits for while not connected
	transport   *http.Transport
	over        bool // run has ended
	reported    string
	renewFailed bool
	told        bool // the agent knows Kip by today's authorities
	untellable  bool // and is of a release that cannot be told
}

func newSession(m *Manager, t target, launch *v1beta1.LaunchStatus, keySHA256 string, cancel context.CancelFunc) *session {
	launched, told := m.cfg.Authorities, true
	if launch != nil {
		launched = launched.Launched(launch.Authorities)
		told = slices.Equal(launched.IDs(), m.cfg.Authorities.IDs())
	}
	waiting := "its agent does not listen at " + t.addr + " yet"
	if keySHA256 != "" {
		waiting = "Kip is connecting to " + t.addr
	}
	return &session{
		target:    t,
		m:         m,
		cancel:    cancel,
		log:       m.cfg.Logger.With("cell", t.cell, "instance", t.instance),
		begun:     m.cfg.Clock.Now(),
		keySHA256: keySHA256,
		waiting:   waiting,
		launched:  launched,
		told:      told,
	}
}

// run connects, and connects again, until the context ends.
func (s *session) run(ctx context.Context) {
	defer s.close()
	p := pace{cell: s.cell, clock: s.m.cfg.Clock, since: s.begun}
	// An instance that booted long ago answers at once, or not at all.
	listening := s.key() != ""
	reached := listening
	for ctx.Err() == nil {
		if !listening {
			if listening = s.await(ctx, &p); !listening {
				continue
			}
		}
		if !reached {
			reached = true
			s.setReached()
		}
		if s.first {
			<-ctx.Done()
			return
		}
		var served time.Duration
		err := s.connect(ctx, &served)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, tunnel.ErrUnreachable) {
			listening = false
		}
		s.refuse(err)
		if errors.Is(err, tunnel.ErrIncompatible) {
			s.tell(v1beta1.ReasonAgentIncompatible, "incompatible", fmt.Sprintf("Kip cannot speak with this cell: %v. What runs in it runs on unobserved.", tunnel.ErrIncompatible))
		}
		s.note(err)
		if !s.m.sleep(ctx, p.next(err, served)) {
			return
		}
	}
}

// await is true when the agent is worth a try: it listens, or so much time has
// passed that it is tried at a slow pace without looking first.
func (s *session) await(ctx context.Context, p *pace) bool {
	eager := p.eagerFor()
	if eager <= 0 {
		return s.m.sleep(ctx, p.slow())
	}
	ctx, cancel := context.WithTimeout(ctx, eager)
	defer cancel()
	return s.m.cfg.Dialer.Await(ctx, s.addr) == nil
}

// connect does what is missing until the gateway is connected, and serves it
// until the connection is lost. served is how long that was.
func (s *session) connect(ctx context.Context, served *time.Duration) error {
	if s.key() == "" {
		if err := s.enrol(ctx); err != nil {
			return err
		}
	}
	err := s.serve(ctx, served)
	switch {
	case errors.Is(err, tunnel.ErrNotEnrolled):
		// The key was written down, and then the certificate did not arrive:
		// Kip or the connection died in between.
		err = s.enrol(ctx)
	case errors.Is(err, tunnel.ErrExpired):
		// Kip was away for longer than a certificate lives.
		err = s.renew(ctx)
	default:
		return err
	}
	if err != nil {
		return err
	}
	return s.serve(ctx, served)
}

func (s *session) serve(ctx context.Context, served *time.Duration) error {
	var ready time.Time
	err := s.m.cfg.Dialer.ServeGateway(ctx, s.addr, s.cell, s.m.cfg.Gateway(s.cell), func(certificate *x509.Certificate) {
		ready = s.m.cfg.Clock.Now()
		s.setConnected(certificate)
	})
	if !ready.IsZero() {
		*served = s.m.cfg.Clock.Since(ready)
		s.setLost()
	}
	return err
}

func (s *session) key() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keySHA256
}

func (s *session) setKey(keySHA256 string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keySHA256 = keySHA256
}

func (s *session) setReached() {
	s.mu.Lock()
	s.listening = true
	s.mu.Unlock()
	s.log.Info("cell reached", "addr", s.addr, "after", s.m.cfg.Clock.Since(s.begun))
}

func (s *session) isListening() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listening
}

func (s *session) isConnected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected
}

func (s *session) setConnected(certificate *x509.Certificate) {
	s.mu.Lock()
	first := s.certificate == nil
	s.connected, s.certificate, s.waiting, s.reported = true, certificate, "", ""
	s.mu.Unlock()
	s.m.metrics.connected.Inc()
	took := s.m.cfg.Clock.Since(s.begun)
	if first {
		s.m.metrics.connects.Observe(took.Seconds())
	}
	s.log.Info("cell connected", "addr", s.addr, "after", took)
	if f := s.m.cfg.OnConnect; f != nil {
		f(s.cell)
	}
}

func (s *session) setLost() {
	s.mu.Lock()
	s.connected = false
	s.mu.Unlock()
	s.m.metrics.connected.Dec()
}

// note keeps, for users, why there is no connection, and logs it when it is
// not what it was.
func (s *session) note(err error) {
	waiting := fmt.Sprintf("%v", err)
	quiet := false
	if errors.Is(err, tunnel.ErrUnreachable) {
		waiting, quiet = "its agent does not listen at "+s.addr, true
	}
	s.mu.Lock()
	same := s.waiting == waiting
	s.waiting = waiting
	s.mu.Unlock()
	switch {
	case same:
	case errors.Is(err, tunnel.ErrLost):
		s.m.metrics.lost.Inc()
		s.log.Warn("cell lost", "err", err)
	case quiet:
		s.log.Debug("cell does not listen", "err", err)
	default:
		s.log.Warn("cell cannot be connected", "err", err)
	}
}

func (s *session) getTransport() (http.RoundTripper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.connected || s.over {
		return nil, &NotConnectedError{Cell: s.cell, Waiting: s.waiting}
	}
	if s.transport == nil {
		s.transport = s.m.cfg.Dialer.Transport(s.addr, s.cell)
	}
	return s.transport, nil
}

// close ends what outlives the gateway's connection.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.transport != nil {
		s.transport.CloseIdleConnections()
	}
}
