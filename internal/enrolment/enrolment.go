// Package enrolment is how a cell's agent and Kip come to trust each other, as
// far as it is words and sums: the messages, and the proof in them. Package
// tunnel carries them over TLS.
//
// At launch Kip put its CA certificate, the cell's name and a one-time token
// into user data. Kip dials the agent and shows its client certificate, so the
// agent knows Kip. The agent has only a self-signed certificate yet. It shows
// that it read this cell's user data by a MAC, keyed with the token, over a
// value that only the two ends of this very TLS session can compute. Somebody
// between the two ends takes part in two other sessions, whose values differ,
// so he has nothing to relay. The token itself never crosses the network.
//
//	Kip                                            agent
//	 | -- TLS, ALPN kip-enrol/1, client cert ------> |
//	 | -- GET /kip/v1/enrolment -------------------> |
//	 | <- Offer{cell, public key, proof} ----------- |
//	 |    checks; writes the key's hash down         |
//	 | -- POST /kip/v1/certificate Grant ----------> |
//	 | <- 204; the token is forgotten -------------- |
package enrolment

import (
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// Paths of the agent's API that belong to enrolment.
const (
	// OfferPath answers GET with an Offer, or with status 409 and an
	// AlreadyEnrolled.
	OfferPath = "/kip/v1/enrolment"
	// CertificatePath takes a Grant by POST: while enrolling, and later to
	// renew the certificate.
	CertificatePath = "/kip/v1/certificate"
)

// MaxMessageBytes bounds each message.
const MaxMessageBytes = 64 << 10

// exporterLabel names our use of TLS keying material (RFC 8446, section 7.5).
const exporterLabel = "EXPORTER-kip-enrol"

// ErrProof says that the other side did not prove that it is the cell's agent.
// It may be anybody.
var ErrProof = errors.New("the agent did not prove that it read the cell's user data")

// Offer is what the agent says of itself.
type Offer struct {
	// Cell is the cell's name as user data has it.
	Cell string `json:"cell"`
	// PublicKey is the agent's key (SubjectPublicKeyInfo, DER). It is the key
	// of the agent's TLS certificate too.
	PublicKey []byte `json:"publicKey"`
	// Proof is the MAC; see Proof.
	Proof []byte `json:"proof"`
	// AgentVersion is for people and logs.
	AgentVersion string `json:"agentVersion,omitempty"`
}

// Grant is Kip's answer.
type Grant struct {
	// CertificatePEM is the cell's certificate for the agent's key.
	CertificatePEM string `json:"certificatePEM"`
	// CACertificates (PEM) are what the agent is to know Kip by from now on,
	// instead of what it had. Empty changes nothing.
	CACertificates string `json:"caCertificates,omitempty"`
}

// Taken is the agent's answer to a Grant with more than a certificate. Agents that
// know of nothing else answer nothing.
type Taken struct {
	// CACertificates: they are what the agent knows Kip by.
	CACertificates bool `json:"caCertificates"`
}

// AlreadyEnrolled is an enrolled agent's answer to a second enrolment.
type AlreadyEnrolled struct {
	// KeySHA256 is the hash of the key that enrolled.
	KeySHA256 string `json:"keySHA256"`
}

// NewOffer makes the agent's offer for one TLS session.
func NewOffer(token []byte, cell string, publicKey []byte, session tls.ConnectionState, version string) (Offer, error) {
	proof, err := proofOf(token, cell, publicKey, session)
	if err != nil {
		return Offer{}, err
	}
	return Offer{Cell: cell, PublicKey: publicKey, Proof: proof, AgentVersion: version}, nil
}

// Verify checks an offer that came over this TLS session, in which Kip is the
// client, and returns the key that the agent proved to hold. The error wraps
// ErrProof, but for a session that cannot export keys.
func (o Offer) Verify(token []byte, cell string, session tls.ConnectionState) (crypto.PublicKey, error) {
	if o.Cell != cell {
		return nil, fmt.Errorf("%w: it says it is cell %.253q, not %q", ErrProof, o.Cell, cell)
	}
	if len(session.PeerCertificates) == 0 {
		return nil, fmt.Errorf("%w: it has no certificate", ErrProof)
	}
	pub := session.PeerCertificates[0].PublicKey
	sessionKey, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: its key: %w", ErrProof, err)
	}
	if string(sessionKey) != string(o.PublicKey) {
		return nil, fmt.Errorf("%w: it offers another key than its TLS certificate's", ErrProof)
	}
	want, err := proofOf(token, cell, sessionKey, session)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(want, o.Proof) {
		return nil, ErrProof
	}
	return pub, nil
}

// proofOf is HMAC-SHA256, keyed with the token, over the cell's name, the
// agent's public key and keying material of the TLS session; each with its
// length before it, so that no two inputs run into each other.
func proofOf(token []byte, cell string, publicKey []byte, session tls.ConnectionState) ([]byte, error) {
	if len(token) == 0 {
		return nil, errors.New("there is no enrolment token")
	}
	material, err := session.ExportKeyingMaterial(exporterLabel, []byte(cell), sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("exporting keys of the TLS session: %w", err)
	}
	mac := hmac.New(sha256.New, token)
	for _, part := range [][]byte{[]byte(cell), publicKey, material} {
		writeSized(mac, part)
	}
	return mac.Sum(nil), nil
}

func writeSized(h hash.Hash, part []byte) {
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
	h.Write(part)
}
