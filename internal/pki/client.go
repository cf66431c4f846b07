package pki

import (
	"crypto/tls"
	"sync"
	"time"
)

// Client holds Kip's client certificates, one of each authority, and replaces
// them in time.
type Client struct {
	authorities *Authorities
	now         func() time.Time

	mu    sync.Mutex
	certs map[*Authority]*tls.Certificate
}

// NewClient returns a Client that has no certificate yet and tells time by now.
func NewClient(authorities *Authorities, now func() time.Time) *Client {
	return &Client{authorities: authorities, now: now, certs: map[*Authority]*tls.Certificate{}}
}

// Certificate returns a current certificate for a connection: that of the
// authority that signs, unless the server takes another one's only. It may be
// called for every connection.
func (c *Client) Certificate(server *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	for _, authority := range c.authorities.all {
		cert, err := c.of(authority)
		if err != nil {
			return nil, err
		}
		if server.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	// The server says better than we why it takes none.
	return c.of(c.authorities.Signer())
}

// of returns a certificate of this authority, a new one when two thirds of the
// old one's life are over or the clock went back before it.
func (c *Client) of(authority *Authority) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, cert := c.now(), c.certs[authority]
	if cert == nil || now.Before(cert.Leaf.NotBefore) || !now.Before(RenewAt(cert.Leaf.NotBefore, cert.Leaf.NotAfter)) {
		var err error
		if cert, err = authority.IssueClient(now); err != nil {
			return nil, err
		}
		c.certs[authority] = cert
	}
	return cert, nil
}

// RenewAt is when a certificate should be replaced: after two thirds of its
// life, so that a third of it remains for things to go wrong.
func RenewAt(notBefore, notAfter time.Time) time.Time {
	return notBefore.Add(notAfter.Sub(notBefore) * 2 / 3)
}
