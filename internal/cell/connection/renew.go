package connection

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

const (
	// renewInterval is how often certificates are looked over; it is also the
	// time between attempts for one that could not be renewed.
	renewInterval = time.Minute

	// maxRenewals bounds how many are renewed at a time.
	maxRenewals = 16

	// renewSpread is the part of a certificate's life by which renewals are
	// brought forward at most, so that a thousand cells that enrolled in one
	// minute do not renew in one.
	renewSpread = 0.1
)

// renewUntil renews certificates that are due until the context ends.
func (m *Manager) renewUntil(ctx context.Context) {
	for m.sleep(ctx, renewInterval) {
		var group errgroup.Group
		group.SetLimit(maxRenewals)
		for _, s := range m.due() {
			group.Go(func() error {
				s.renewNow(ctx)
				return nil
			})
		}
		_ = group.Wait()
	}
}

// due are the sessions whose agents need a new certificate now.
func (m *Manager) due() []*session {
	now := m.cfg.Clock.Now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	var due []*session
	for _, s := range m.sessions {
		if s.isDue(now) {
			due = append(due, s)
		}
	}
	return due
}

func (s *session) isDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.connected || s.certificate == nil {
		return false
	}
	c := s.certificate
	if !s.untellable && (!s.told || !s.m.cfg.Authorities.Signer().Signed(c)) {
		return true
	}
	early := time.Duration(renewSpread * fraction(s.cell, 0) * float64(c.NotAfter.Sub(c.NotBefore)))
	return !now.Before(pki.RenewAt(c.NotBefore, c.NotAfter).Add(-early))
}

// renewNow renews beside the connected gateway, and logs what changed.
func (s *session) renewNow(ctx context.Context) {
	err := s.renew(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	failedBefore := s.renewFailed
	s.renewFailed = err != nil
	until := s.certificate.NotAfter
	s.mu.Unlock()
	switch {
	case err == nil:
		s.log.Debug("cell's certificate renewed", "until", until)
	case !failedBefore:
		s.log.Warn("cell's certificate could not be renewed; trying on", "err", err, "until", until)
	}
}

// renew gives the agent a new certificate for the key that enrolled, and for no
// other. Until it was told of today's authorities it is one of those that it was
// launched with, which it knows; what is missing then is made up for by the next.
func (s *session) renew(ctx context.Context) error {
	enrolled := s.key()
	s.mu.Lock()
	signer := s.launched.Signer()
	if s.told {
		signer = s.m.cfg.Authorities.Signer()
	}
	s.mu.Unlock()
	var signed []byte
	err := s.m.cfg.Dialer.Renew(ctx, s.addr, s.cell, enrolled, func(_ context.Context, pub crypto.PublicKey, keySHA256 string) ([]byte, error) {
		if keySHA256 != enrolled {
			return nil, fmt.Errorf("%w: %s, and now %s", errOtherKey, enrolled, keySHA256)
		}
		var err error
		signed, err = signer.SignCell(pub, s.cell, s.m.cfg.Clock.Now())
		return signed, err
	})
	keeps := errors.Is(err, tunnel.ErrKeepsAuthorities)
	if err != nil && !keeps {
		s.m.metrics.renewals.WithLabelValues("failed").Inc()
		return err
	}
	s.m.metrics.renewals.WithLabelValues("renewed").Inc()
	certificate, err := pki.ParseCertificate(signed)
	if err != nil {
		return fmt.Errorf("reading the certificate that was signed: %w", err)
	}
	s.mu.Lock()
	s.certificate = certificate
	toldBefore := s.told
	s.told, s.untellable = s.told || !keeps, keeps
	s.mu.Unlock()
	if !toldBefore && !keeps {
		s.log.Info("cell told of Kip's authorities", "authorities", s.m.cfg.Authorities.IDs())
	}
	return nil
}

// untold is how many sessions have an agent that does not know Kip by just
// today's authorities, or whose certificate is not that of the one that signs.
func (m *Manager) untold() float64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := 0
	for _, s := range m.sessions {
		s.mu.Lock()
		if !s.told || s.certificate != nil && !m.cfg.Authorities.Signer().Signed(s.certificate) {
			n++
		}
		s.mu.Unlock()
	}
	return float64(n)
}
