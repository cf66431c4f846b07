// Package pki is Kip's certificate authority, from which all trust between Kip
// and its cells comes.
//
// It signs two kinds of certificate that cannot stand in for each other: a
// cell's, good only for serving under the cell's name, and Kip's own, good only
// as a client named "kip". So nothing that a cell holds lets it pose as Kip to
// another cell.
//
// The authority also derives the enrolment tokens from its key, so that no
// token is stored anywhere and a restarted Kip knows all of them.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// ClientName is the common name of Kip's client certificate. Agents let
	// in nobody else.
	ClientName = "kip"

	// CertificateLifetime is how long a cell's and Kip's own certificates are
	// good for. Both are renewed long before.
	CertificateLifetime = 24 * time.Hour

	// authorityLifetime bounds the authority itself, which an operator replaces
	// (kip authority) and not Kip.
	authorityLifetime = 10 * 365 * 24 * time.Hour

	// backdate is how far before now certificates begin: an instance that
	// just booted may not have set its clock yet.
	backdate = time.Hour

	tokenInfo = "kip enrolment token"
)

// Authority is a certificate authority. Its methods may be called from any
// goroutine; none of them blocks.
type Authority struct {
	key      *ecdsa.PrivateKey
	cert     *x509.Certificate
	tokenKey []byte
}

// Create makes a new authority with a fresh key. The caller keeps what
// CertificatePEM and KeyPEM return.
func Create(now time.Time) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// A name of its own: by it agents say in a handshake whom they trust.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s %x", originalName, serial.FillBytes(make([]byte, 16))[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("creating the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("creating the authority's certificate: %w", err)
	}
	return newAuthority(cert, key)
}

// Load takes up an authority that was kept as PEM. The error says what is
// wrong with which of the two.
func Load(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("loading the authority's certificate: %w", err)
	}
	if !cert.IsCA {
		return nil, errors.New("loading the authority's certificate: it is not an authority's")
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("loading the authority's key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("loading the authority: the key does not belong to the certificate")
	}
	return newAuthority(cert, key)
}

func newAuthority(cert *x509.Certificate, key *ecdsa.PrivateKey) (*Authority, error) {
	secret, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("reading the authority's key: %w", err)
	}
	tokenKey, err := hkdf.Key(sha256.New, secret, nil, tokenInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of enrolment tokens: %w", err)
	}
	return &Authority{key: key, cert: cert, tokenKey: tokenKey}, nil
}

// CertificatePEM returns the authority's certificate, which is public: it goes
// into user data.
func (a *Authority) CertificatePEM() []byte { return encodeCertificate(a.cert.Raw) }

// KeyPEM returns the authority's private key. It must not leave the Secret
// that keeps it.
func (a *Authority) KeyPEM() ([]byte, error) { return EncodeKey(a.key) }

// Roots returns a new pool that holds the authority alone.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// SignCell returns a PEM certificate with which the holder of the key may
// serve as the cell, for CertificateLifetime. The caller has made sure, and
// written down, that this key is the cell's.
func (a *Authority) SignCell(pub crypto.PublicKey, cell string, now time.Time) ([]byte, error) {
	der, err := a.sign(pub, &x509.Certificate{
		Subject:     pkix.Name{CommonName: cell},
		DNSNames:    []string{cell},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, now)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of cell %s: %w", cell, err)
	}
	return encodeCertificate(der), nil
}

// IssueClient makes a key and a certificate with which Kip shows cells that it
// is Kip, for CertificateLifetime. See Client for one that stays fresh.
func (a *Authority) IssueClient(now time.Time) (*tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	der, err := a.sign(key.Public(), &x509.Certificate{
		Subject:     pkix.Name{CommonName: ClientName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, now)
	if err != nil {
		return nil, fmt.Errorf("signing Kip's client certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("signing Kip's client certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// sign completes the template with what all leaf certificates share.
func (a *Authority) sign(pub crypto.PublicKey, template *x509.Certificate, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(CertificateLifetime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
}

// EnrolmentToken returns the token of the Cell object with this UID: the same
// whenever it is asked for, and unrelated to that of any other.
func (a *Authority) EnrolmentToken(cellUID types.UID) string {
	mac := hmac.New(sha256.New, a.tokenKey)
	mac.Write([]byte(cellUID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// KeySHA256 is the hex SHA-256 of a public key's SubjectPublicKeyInfo: how a
// cell's key is written into Cell.status.enrolment.
func KeySHA256(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encoding a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// NewKey makes a private key of the one kind Kip and its cells use.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return serial, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
