package enrolment

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

// session returns the two ends' views of one TLS session with an agent that
// holds a fresh key, and that key.
func session(t *testing.T) (kip, agent tls.ConnectionState, publicKey []byte) {
	t.Helper()
	authority, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := authority.SignCell(key.Public(), "cell-a", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := pki.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	publicKey, err = x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	client := tls.Client(a, &tls.Config{RootCAs: authority.Roots(), ServerName: "cell-a", MinVersion: tls.VersionTLS13})
	server := tls.Server(b, &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return client.ConnectionState(), server.ConnectionState(), publicKey
}

func TestVerify(t *testing.T) {
	kip, agent, publicKey := session(t)
	_, otherAgent, otherKey := session(t)
	cases := map[string]struct {
		reason   string
		token    string
		cell     string
		key      []byte
		agent    tls.ConnectionState
		change   func(*Offer)
		kipToken string
		ok       bool
	}{
		"Agent": {
			reason: "Same token, cell, key and session on both ends.",
			token:  "t", cell: "cell-a", key: publicKey, agent: agent, kipToken: "t", ok: true,
		},
		"OtherToken": {
			token: "u", cell: "cell-a", key: publicKey, agent: agent, kipToken: "t",
		},
		"OtherSession": {
			reason: "What was made for one session is worth nothing in another.",
			token:  "t", cell: "cell-a", key: publicKey, agent: otherAgent, kipToken: "t",
		},
		"OtherCell": {
			token: "t", cell: "cell-b", key: publicKey, agent: agent, kipToken: "t",
		},
		"OtherCellRenamed": {
			reason: "The cell's name is part of what is proved.",
			token:  "t", cell: "cell-b", key: publicKey, agent: agent, kipToken: "t",
			change: func(o *Offer) { o.Cell = "cell-a" },
		},
		"OtherKey": {
			token: "t", cell: "cell-a", key: otherKey, agent: agent, kipToken: "t",
		},
		"OtherKeyRenamed": {
			reason: "The key is part of what is proved.",
			token:  "t", cell: "cell-a", key: otherKey, agent: agent, kipToken: "t",
			change: func(o *Offer) { o.PublicKey = publicKey },
		},
		"NoProof": {
			token: "t", cell: "cell-a", key: publicKey, agent: agent, kipToken: "t",
			change: func(o *Offer) { o.Proof = nil },
		},
		"CutProof": {
			token: "t", cell: "cell-a", key: publicKey, agent: agent, kipToken: "t",
			change: func(o *Offer) { o.Proof = o.Proof[:len(o.Proof)-1] },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			offer, err := NewOffer([]byte(tc.token), tc.cell, tc.key, tc.agent, "v1")
			if err != nil {
				t.Fatal(err)
			}
			if tc.change != nil {
				tc.change(&offer)
			}
			_, err = offer.Verify([]byte(tc.kipToken), "cell-a", kip)
			if (err == nil) != tc.ok || (err != nil && !errors.Is(err, ErrProof)) {
				t.Errorf("%s\ngot error %v, want success %t, else ErrProof", tc.reason, err, tc.ok)
			}
		})
	}
}

// An empty token would make the proof public.
func TestEmptyToken(t *testing.T) {
	kip, agent, publicKey := session(t)
	if _, err := NewOffer(nil, "cell-a", publicKey, agent, ""); err == nil {
		t.Error("the agent made a proof without a token")
	}
	if _, err := (Offer{Cell: "cell-a", PublicKey: publicKey}).Verify(nil, "cell-a", kip); err == nil {
		t.Error("Kip took a proof without a token")
	}
}
