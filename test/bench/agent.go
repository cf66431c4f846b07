package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// agents asks cells' agents what they know about themselves. It proves to be
// Kip, with Kip's own authority, which an administrator can read.
type agents struct{ dialer *tunnel.Dialer }

func (b *bench) agents(ctx context.Context) (agents, error) {
	secret, err := b.kube.CoreV1().Secrets("kip").Get(ctx, "kip-ca", metav1.GetOptions{})
	if err != nil {
		return agents{}, fmt.Errorf("reading Kip's authority: %w", err)
	}
	authority, err := pki.Load(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return agents{}, fmt.Errorf("reading Kip's authority: %w", err)
	}
	return agents{tunnel.NewDialer(tunnel.DialerConfig{
		ClientCertificate: pki.NewClient(pki.NewAuthorities(authority), time.Now).Certificate, Roots: authority.Roots(),
	})}, nil
}

func (a agents) status(ctx context.Context, c *cellLog) (status.Status, error) {
	var s status.Status
	transport := a.dialer.Transport(net.JoinHostPort(c.address, strconv.Itoa(tunnel.Port)), c.cell)
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://cell/kip/v1/status", nil)
	if err != nil {
		return s, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return s, fmt.Errorf("asking the agent of %s: %w", c.cell, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("asking the agent of %s: it answered %s", c.cell, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("asking the agent of %s: %w", c.cell, err)
	}
	return s, nil
}

// reached is when the agent got to a step of its start, zero if it did not.
func reached(s status.Status, step string) time.Time {
	for _, b := range s.Boot {
		if b.Name == step {
			return s.StartedAt.Add(time.Duration(b.Milliseconds * float64(time.Millisecond)))
		}
	}
	return time.Time{}
}
