package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"
)

// originalName is the common name of the authorities of Kips that did not write
// down with which of them a cell was launched. Later ones have names of their own.
const originalName = "kip-ca"

// Authorities are all that Kip trusts: the authority that signs and, while it is
// being replaced, the one that will or the one that did. They do not change. The
// methods may be called from any goroutine, and none of them blocks.
type Authorities struct {
	all []*Authority // the one that signs is the first
}

// NewAuthorities returns those given, of which the first signs.
func NewAuthorities(signer *Authority, others ...*Authority) *Authorities {
	return &Authorities{append([]*Authority{signer}, others...)}
}

// Signer is the one that signs certificates now.
func (a *Authorities) Signer() *Authority { return a.all[0] }

// Roots returns a new pool that holds all of them.
func (a *Authorities) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, authority := range a.all {
		pool.AddCert(authority.cert)
	}
	return pool
}

// CertificatesPEM are the certificates of all of them: whom a cell is to take for
// Kip.
func (a *Authorities) CertificatesPEM() []byte {
	var all [][]byte
	for _, authority := range a.all {
		all = append(all, authority.CertificatePEM())
	}
	return bytes.Join(all, nil)
}

// IDs name them, the one that signs first.
func (a *Authorities) IDs() []string {
	var ids []string
	for _, authority := range a.all {
		ids = append(ids, authority.ID())
	}
	return ids
}

// Launched are those that a cell was launched with: its enrolment token is the
// first one's. Cells of Kips that did not write them down have none, and were
// launched with the original one. One that was given up since is left out, and
// if all were, nothing is left to enrol with: they are today's then.
func (a *Authorities) Launched(ids []string) *Authorities {
	of := func(match func(*Authority) bool) []*Authority {
		if i := slices.IndexFunc(a.all, match); i >= 0 {
			return a.all[i : i+1]
		}
		return nil
	}
	var found []*Authority
	if len(ids) == 0 {
		found = of(func(c *Authority) bool { return c.cert.Subject.CommonName == originalName })
	}
	for _, id := range ids {
		found = append(found, of(func(c *Authority) bool { return c.ID() == id })...)
	}
	if len(found) == 0 {
		return a
	}
	return &Authorities{slices.Clone(found)}
}

// Signed is whether the authority signed a certificate that some authority of
// Kip's did.
func (a *Authority) Signed(cert *x509.Certificate) bool {
	return bytes.Equal(a.cert.RawSubject, cert.RawIssuer)
}

// ID names an authority, for people and for Cells.
func (a *Authority) ID() string {
	sum := sha256.Sum256(a.cert.Raw)
	return hex.EncodeToString(sum[:8])
}

// NotAfter is when the authority's own certificate ends, and with it all trust in
// what it signed.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }
