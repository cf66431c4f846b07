package tunnel

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"

	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/pki"
)

// SignFunc returns a PEM certificate for a cell's key. Before it returns one
// while enrolling, it has written the key's hash down for good, and made sure
// that no other is.
type SignFunc func(ctx context.Context, pub crypto.PublicKey, keySHA256 string) (certificatePEM []byte, err error)

// Enrol gives the agent at the address its certificate, if it proves that it
// read the cell's user data. sign is called once, after the proof; its error is
// returned, wrapped. Enrol may be repeated until it succeeds: the agent offers
// the same key again.
//
// Errors wrap ErrUnreachable, enrolment.ErrProof (it may be anybody),
// ErrAlreadyEnrolled, or say what went wrong on the way.
func (d *Dialer) Enrol(ctx context.Context, addr, cell, token string, sign SignFunc) error {
	// Whoever serves here is judged by its proof, not by its certificate.
	conn, err := d.dial(ctx, addr, cell, []string{protocolEnrol}, func(session tls.ConnectionState) error {
		if session.NegotiatedProtocol != protocolEnrol {
			return fmt.Errorf("%w: it does not speak %s", ErrUntrusted, protocolEnrol)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("enrolling cell %s: %w", cell, err)
	}
	x, err := newExchange(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("enrolling cell %s: %w", cell, err)
	}
	defer x.close()
	if err := enrol(ctx, x, cell, token, sign); err != nil {
		return fmt.Errorf("enrolling cell %s at %s: %w", cell, addr, err)
	}
	return nil
}

func enrol(ctx context.Context, x *exchange, cell, token string, sign SignFunc) error {
	var offer enrolment.Offer
	err := x.do(ctx, http.MethodGet, enrolment.OfferPath, cell, nil, &offer)
	if refused, ok := errors.AsType[*statusError](err); ok && refused.status == http.StatusConflict {
		return ErrAlreadyEnrolled
	}
	if err != nil {
		return err
	}
	pub, err := offer.Verify([]byte(token), cell, x.conn.ConnectionState())
	if err != nil {
		return err
	}
	_, err = grant(ctx, x, cell, pub, "", sign)
	return err
}

// Renew gives the agent a new certificate for the key that enrolled and, with it,
// those that it is to know Kip by, and returns once the agent has taken them. The
// server shows by its TLS handshake
// that it holds that key; that its certificate expired meanwhile does not
// matter. It may be repeated.
//
// Errors wrap ErrUnreachable, ErrUntrusted (another key), ErrKeepsAuthorities, or
// say what went wrong on the way.
func (d *Dialer) Renew(ctx context.Context, addr, cell, keySHA256 string, sign SignFunc) error {
	conn, err := d.dial(ctx, addr, cell, []string{protocolAPI}, func(session tls.ConnectionState) error {
		return verifyKey(session, keySHA256)
	})
	if err != nil {
		return fmt.Errorf("renewing the certificate of cell %s: %w", cell, err)
	}
	x, err := newExchange(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("renewing the certificate of cell %s: %w", cell, err)
	}
	defer x.close()
	taken, err := grant(ctx, x, cell, conn.ConnectionState().PeerCertificates[0].PublicKey, d.config.CACertificates, sign)
	if err == nil && d.config.CACertificates != "" && !taken.CACertificates {
		err = ErrKeepsAuthorities
	}
	if err != nil {
		return fmt.Errorf("renewing the certificate of cell %s at %s: %w", cell, addr, err)
	}
	return nil
}

func grant(ctx context.Context, x *exchange, cell string, pub crypto.PublicKey, authorities string, sign SignFunc) (taken enrolment.Taken, err error) {
	keySHA256, err := pki.KeySHA256(pub)
	if err != nil {
		return taken, err
	}
	certPEM, err := sign(ctx, pub, keySHA256)
	if err != nil {
		return taken, err
	}
	err = x.do(ctx, http.MethodPost, enrolment.CertificatePath, cell,
		enrolment.Grant{CertificatePEM: string(certPEM), CACertificates: authorities}, &taken)
	return taken, err
}
