package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

// verifyCell checks, on Kip's side, that the server is the cell: a certificate
// of Kip's authority, for serving, under the cell's name, valid now.
func verifyCell(session tls.ConnectionState, roots *x509.CertPool, cell string, now time.Time) error {
	leaf, err := peer(session)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:       roots,
		DNSName:     cell,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CurrentTime: now,
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w: %w", ErrExpired, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return nil
}

// verifyKey checks, on Kip's side, that the server holds the private key whose
// hash was written down when the cell enrolled. It says nothing about the
// certificate around the key, which may have expired.
func verifyKey(session tls.ConnectionState, keySHA256 string) error {
	leaf, err := peer(session)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	got, err := pki.KeySHA256(leaf.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if got != keySHA256 {
		return fmt.Errorf("%w: its key is %s, and %s enrolled", ErrUntrusted, got, keySHA256)
	}
	return nil
}

// verifyKip checks, on the agent's side and after the chain was verified, that
// the client is Kip and said what it wants.
func verifyKip(session tls.ConnectionState) error {
	leaf, err := peer(session)
	if err != nil {
		return err
	}
	if leaf.Subject.CommonName != pki.ClientName {
		return fmt.Errorf("the client is %.64q, not %q", leaf.Subject.CommonName, pki.ClientName)
	}
	if session.NegotiatedProtocol == "" {
		return errors.New("the client named no protocol")
	}
	return nil
}

func peer(session tls.ConnectionState) (*x509.Certificate, error) {
	if len(session.PeerCertificates) == 0 {
		return nil, errors.New("the peer has no certificate")
	}
	return session.PeerCertificates[0], nil
}
