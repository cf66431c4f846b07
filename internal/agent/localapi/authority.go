package localapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// lifetime of everything the authority makes: longer than any cell. The files
// never leave the cell, and all are replaced when the agent starts.
const lifetime = 10 * 365 * 24 * time.Hour

// Authority signs the certificates that agent, kubelet and kube-proxy show each
// other.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes a new authority.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the cell's own authority: %w", err)
	}
	template, err := newTemplate("kip-cell")
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the cell's own authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the cell's own authority: %w", err)
	}
	return &Authority{certificate: certificate, key: key}, nil
}

// Pool returns a pool that trusts this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.certificate.Raw) }

// Client issues a certificate that proves, as a client, to be name.
func (a *Authority) Client(name string) (*Certificate, error) {
	return a.issue(name, x509.ExtKeyUsageClientAuth)
}

// Server issues a certificate to serve with on the loopback.
func (a *Authority) Server(name string) (*Certificate, error) {
	return a.issue(name, x509.ExtKeyUsageServerAuth)
}

func (a *Authority) issue(name string, usage x509.ExtKeyUsage) (*Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate for %s: %w", name, err)
	}
	template, err := newTemplate(name)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	if usage == x509.ExtKeyUsageServerAuth {
		template.DNSNames = []string{"localhost"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate for %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate for %s: %w", name, err)
	}
	return &Certificate{
		TLS:            tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		CertificatePEM: encode("CERTIFICATE", der),
		KeyPEM:         encode("PRIVATE KEY", keyDER),
	}, nil
}

// Certificate is a certificate with its key, ready for use and as files.
type Certificate struct {
	TLS                    tls.Certificate
	CertificatePEM, KeyPEM []byte
}

func newTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		// Well before: the clock may still be set, backwards, after boot.
		NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter:  time.Now().Add(lifetime),
	}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
