package servingcert

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
)

const (
	// firstRetry and maxRetry are the waits after a request that came to
	// nothing, each time twice as long: every attempt leaves an object behind.
	firstRetry, maxRetry = 30 * time.Second, 15 * time.Minute

	// minRenewal is the soonest that a new certificate is renewed.
	minRenewal = time.Minute
)

// Config is what a Manager is made of.
type Config struct {
	// Kip and Node lead to the API server, as Kip and as the virtual node.
	Kip, Node kubernetes.Interface
	// Signer is the name of a signer, or SelfSigned: see Signer.
	Signer string
	// NodeName and NodeIP are what the certificate is for.
	NodeName, NodeIP string
	Events           record.EventRecorder
	Clock            clock.Clock
	Metrics          prometheus.Registerer
	Logger           *slog.Logger
}

// Manager has a certificate at any time, and gets a better one.
type Manager struct {
	cfg      Config
	identity identity
	current  atomic.Pointer[tls.Certificate]

	// Of Run alone.
	signed     bool // current is a signer's
	complained bool // since the last certificate of a signer

	signedMetric, expiry prometheus.Gauge
}

// New makes a Manager, which has a certificate of its own until Run gets
// another.
func New(cfg Config) (*Manager, error) {
	m := &Manager{
		cfg:      cfg,
		identity: identity{cfg.NodeName, net.ParseIP(cfg.NodeIP)},
		signedMetric: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_kubelet_certificate_signed",
			Help: "1 while the kubelet API serves with a certificate that the cluster signed, 0 while with its own.",
		}),
		expiry: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_kubelet_certificate_expiry_timestamp_seconds",
			Help: "When the certificate of the kubelet API expires, in Unix time.",
		}),
	}
	if m.identity.ip == nil {
		return nil, fmt.Errorf("--node-ip %q is not an IP address", cfg.NodeIP)
	}
	for _, c := range []prometheus.Collector{m.signedMetric, m.expiry} {
		if err := cfg.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering the serving certificate's metrics: %w", err)
		}
	}
	if err := m.signItself(); err != nil {
		return nil, err
	}
	return m, nil
}

// GetCertificate is for a tls.Config.
func (m *Manager) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return m.current.Load(), nil
}

// Run gets certificates of the signer until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.Signer == SelfSigned {
		m.cfg.Logger.WarnContext(ctx, "the kubelet API has a self-signed certificate, as configured; an API server that checks kubelets' certificates refuses it")
		<-ctx.Done()
		return nil
	}
	retry := firstRetry
	for ctx.Err() == nil {
		var wait time.Duration
		certificate, err := m.obtain(ctx)
		switch {
		case err == nil:
			m.use(certificate, true)
			m.complained = false
			m.cfg.Logger.InfoContext(ctx, "the kubelet API has a new certificate", "signer", m.cfg.Signer, "until", certificate.Leaf.NotAfter)
			wait, retry = m.renewal(certificate), firstRetry
		case ctx.Err() != nil:
			// What ended with it is no error.
			continue
		default:
			m.cfg.Logger.WarnContext(ctx, "the kubelet API has no new certificate", "err", err, "next", retry)
			m.checkExpiry("the next one")
			m.complain(err.Error())
			wait, retry = retry, min(2*retry, maxRetry)
		}
		select {
		case <-ctx.Done():
		case <-m.cfg.Clock.After(wait):
		}
	}
	return nil
}

// renewal is how long to wait before the next certificate is asked for: until
// a fifth of this one's life is left, and up to a twentieth more.
func (m *Manager) renewal(c *tls.Certificate) time.Duration {
	life := max(0, c.Leaf.NotAfter.Sub(c.Leaf.NotBefore))
	early := life/5 + time.Duration(rand.Int64N(int64(life/20)+1))
	return max(minRenewal, c.Leaf.NotAfter.Add(-early).Sub(m.cfg.Clock.Now()))
}

func (m *Manager) use(c *tls.Certificate, signed bool) {
	m.current.Store(c)
	m.signed = signed
	value := 0.0
	if signed {
		value = 1
	}
	m.signedMetric.Set(value)
	m.expiry.Set(float64(c.Leaf.NotAfter.Unix()))
}

func (m *Manager) signItself() error {
	c, err := m.identity.selfSigned(m.cfg.Clock.Now())
	if err != nil {
		return err
	}
	m.use(c, false)
	return nil
}

// checkExpiry replaces a certificate that has expired while another is waited
// for. One of Kip's own is no better to whoever checks, but says what is wrong.
func (m *Manager) checkExpiry(waitsFor string) {
	if m.cfg.Clock.Now().Before(m.current.Load().Leaf.NotAfter) {
		return
	}
	if err := m.signItself(); err != nil {
		m.cfg.Logger.Error("replacing the kubelet API's expired certificate", "err", err)
		return
	}
	m.complain("the last one expired, and Kip waits for " + waitsFor)
}

// complain says, once until there is a certificate again, that the kubelet API
// serves with its own.
func (m *Manager) complain(why string) {
	if m.signed || m.complained {
		return
	}
	m.complained = true
	m.cfg.Logger.Warn("the kubelet API has a self-signed certificate; an API server that checks kubelets' certificates refuses it", "why", why)
	node := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: m.cfg.NodeName, UID: types.UID(m.cfg.NodeName)}
	m.cfg.Events.Eventf(node, corev1.EventTypeWarning, "KubeletCertificateSelfSigned",
		"the kubelet API has a self-signed certificate, so kubectl logs and exec may fail: %s", why)
}
