package pki

import (
	"crypto/tls"
	"sync"
	"time"
)

// Client holds Kip's client certificate and replaces it in time.
type Client struct {
	authority *Authority
	now       func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate
}

// NewClient returns a Client that has no certificate yet and tells time by now.
func NewClient(authority *Authority, now func() time.Time) *Client {
	return &Client{authority: authority, now: now}
}

// Certificate returns the current certificate, a new one when two thirds of
// the old one's life are over or the clock went back before it. It may be
// called for every connection.
func (c *Client) Certificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if c.cert == nil || now.Before(c.cert.Leaf.NotBefore) || !now.Before(RenewAt(c.cert.Leaf.NotBefore, c.cert.Leaf.NotAfter)) {
		cert, err := c.authority.IssueClient(now)
		if err != nil {
			return nil, err
		}
		c.cert = cert
	}
	return c.cert, nil
}

// RenewAt is when a certificate should be replaced: after two thirds of its
// life, so that a third of it remains for things to go wrong.
func RenewAt(notBefore, notAfter time.Time) time.Time {
	return notBefore.Add(notAfter.Sub(notBefore) * 2 / 3)
}
