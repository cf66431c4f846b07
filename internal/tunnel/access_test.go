package tunnel

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

// clientOf signs a client certificate by the authority with any name, use and
// end.
func clientOf(t *testing.T, a *pki.Authority, name string, usage x509.ExtKeyUsage, end time.Time) tls.Certificate {
	t.Helper()
	ca, err := pki.ParseCertificate(a.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := a.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := pki.ParseKey(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{cellName},
		NotBefore:    end.Add(-48 * time.Hour),
		NotAfter:     end,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Nobody but Kip gets one byte of an answer from an agent, whatever he asks for
// and whether or not the agent is enrolled.
func TestAgentLetsInOnlyKip(t *testing.T) {
	w := newWorld(t)
	other, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	kip := clientOf(t, w.authority, pki.ClientName, x509.ExtKeyUsageClientAuth, tomorrow)
	fresh, freshAddr := w.agent(t, w.config(&memoryStore{}))
	done, doneAddr := w.enrolled(t)
	cellCertificate := *done.certificate
	if fresh.isEnrolled() {
		t.Fatal("the agent that should be fresh is enrolled")
	}

	cases := map[string]struct {
		reason string
		certs  []tls.Certificate
		change func(*tls.Config)
		ok     bool
	}{
		"Kip": {
			reason: "The test would prove nothing if Kip failed too.",
			certs:  []tls.Certificate{kip}, ok: true,
		},
		"Nobody": {
			reason: "No certificate at all.",
		},
		"OtherAuthority": {
			reason: "Another installation's Kip.",
			certs:  []tls.Certificate{clientOf(t, other, pki.ClientName, x509.ExtKeyUsageClientAuth, tomorrow)},
		},
		"Cell": {
			reason: "A cell's own certificate must not open other cells.",
			certs:  []tls.Certificate{cellCertificate},
		},
		"CellNamedKip": {
			reason: "Nor that of a cell with an unlucky name.",
			certs:  []tls.Certificate{clientOf(t, w.authority, pki.ClientName, x509.ExtKeyUsageServerAuth, tomorrow)},
		},
		"OtherName": {
			reason: "Kip's authority may sign other clients one day; they are not Kip.",
			certs:  []tls.Certificate{clientOf(t, w.authority, "kip-metrics", x509.ExtKeyUsageClientAuth, tomorrow)},
		},
		"Expired": {
			certs: []tls.Certificate{clientOf(t, w.authority, pki.ClientName, x509.ExtKeyUsageClientAuth, time.Now().Add(-time.Minute))},
		},
		"OldTLS": {
			reason: "Only TLS 1.3.",
			certs:  []tls.Certificate{kip},
			change: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		},
		"NoProtocol": {
			reason: "A client that names no protocol would be taken for an HTTP/1.1 one.",
			certs:  []tls.Certificate{kip},
			change: func(c *tls.Config) { c.NextProtos = nil },
		},
		"OtherProtocol": {
			certs:  []tls.Certificate{kip},
			change: func(c *tls.Config) { c.NextProtos = []string{"h2"} },
		},
	}
	targets := map[string]struct {
		addr      string
		protocols []string
	}{
		"Fresh":    {freshAddr, []string{protocolEnrol}},
		"Enrolled": {doneAddr, []string{protocolEnrol, protocolAPI, protocolGateway}},
	}
	for name, tc := range cases {
		for state, target := range targets {
			for _, protocol := range target.protocols {
				t.Run(name+"/"+state+"/"+strings.ReplaceAll(protocol, "/", "-"), func(t *testing.T) {
					config := &tls.Config{Certificates: tc.certs, NextProtos: []string{protocol}}
					if len(tc.certs) > 0 {
						// Send it even if the server names other issuers.
						config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
							return &tc.certs[0], nil
						}
					}
					if tc.change != nil {
						tc.change(config)
					}
					if got := answers(t, target.addr, config); got != tc.ok {
						t.Errorf("%s\nanswered: %t, want %t", tc.reason, got, tc.ok)
					}
				})
			}
		}
	}
}

// answers is whether the server sends anything after the handshake. A gateway
// connection begins with the agent's HTTP/2 preface, unasked.
func answers(t *testing.T, addr string, config *tls.Config) bool {
	t.Helper()
	conn, err := rawTLS(t, addr, config)
	if err != nil {
		return false
	}
	defer conn.Close()
	if conn.ConnectionState().NegotiatedProtocol != protocolGateway {
		_, _ = io.WriteString(conn, "GET /kip/v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	n, _ := conn.Read(make([]byte, 1))
	return n > 0
}

// An agent that is not enrolled has nothing but enrolment.
func TestFreshAgentOffersOnlyEnrolment(t *testing.T) {
	w := newWorld(t)
	_, addr := w.agent(t, w.config(&memoryStore{}))
	kip := clientOf(t, w.authority, pki.ClientName, x509.ExtKeyUsageClientAuth, time.Now().Add(time.Hour))
	for _, protocol := range []string{protocolAPI, protocolGateway} {
		if conn, err := rawTLS(t, addr, &tls.Config{Certificates: []tls.Certificate{kip}, NextProtos: []string{protocol}}); err == nil {
			_ = conn.Close()
			t.Errorf("%s: the handshake succeeded", protocol)
		}
	}
	conn, err := rawTLS(t, addr, &tls.Config{Certificates: []tls.Certificate{kip}, NextProtos: []string{protocolEnrol}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /kip/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 404") {
		t.Errorf("the agent's API through enrolment: %.60q, want 404", answer)
	}
}

// A client that connects and says nothing is gone soon, and does not keep Kip
// out meanwhile.
func TestSilentClients(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	for range 50 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	startGateway(t, w.dialer, addr, says("x")).wait(t)
	resp, err := get(t.Context(), s, "/")
	if got := body(t, resp, err); got != "x" {
		t.Errorf("got %q", got)
	}
}

// server is a TLS server with any certificate; it closes each connection after
// the handshake.
func server(t *testing.T, cert tls.Certificate, protocols ...string) string {
	t.Helper()
	l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols, ClientAuth: tls.RequestClientCert})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func cellServer(t *testing.T, a *pki.Authority, cell string, key *ecdsa.PrivateKey, now time.Time) tls.Certificate {
	t.Helper()
	text, err := a.SignCell(key.Public(), cell, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

// Kip says nothing of a pod's to a server that is not the pod's cell.
func TestKipTrustsOnlyTheCell(t *testing.T) {
	w := newWorld(t)
	other, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	self, err := selfSigned(key, cellName)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	cases := map[string]struct {
		reason string
		cert   tls.Certificate
		want   error
	}{
		"SelfSigned":     {reason: "Anybody can make one.", cert: *self, want: ErrUntrusted},
		"OtherAuthority": {cert: cellServer(t, other, cellName, key, now), want: ErrUntrusted},
		"OtherCell":      {reason: "A cell at the address of one that is gone.", cert: cellServer(t, w.authority, "cell-b", key, now), want: ErrUntrusted},
		"KipItself":      {reason: "A client certificate.", cert: clientOf(t, w.authority, cellName, x509.ExtKeyUsageClientAuth, now.Add(time.Hour)), want: ErrUntrusted},
		"Expired":        {reason: "It can be told apart: renewing helps.", cert: cellServer(t, w.authority, cellName, key, now.Add(-25*time.Hour)), want: ErrExpired},
		"ExpiredForeign": {reason: "Renewing must not be tried with anybody.", cert: cellServer(t, other, cellName, key, now.Add(-25*time.Hour)), want: ErrUntrusted},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			addr := server(t, tc.cert, protocolGateway, protocolAPI)
			err := w.dialer.ServeGateway(t.Context(), addr, cellName, says("secret"), func(*x509.Certificate) { t.Error("ready") })
			if name == "ExpiredForeign" && errors.Is(err, ErrExpired) {
				// crypto/x509 looks at the dates first. Renew checks the key
				// that enrolled, so nothing is lost.
				err = w.dialer.Renew(t.Context(), addr, cellName, "another key", w.sign)
			}
			wantError(t, tc.reason, err, tc.want)

			transport := w.dialer.Transport(addr, cellName)
			defer transport.CloseIdleConnections()
			req, err := newRequest(t.Context(), "/kubelet/pods")
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
				t.Errorf("%s\nKip talked to the agent's API", tc.reason)
			}
		})
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t)
	store := &memoryStore{}
	s, addr := w.agent(t, w.config(store))
	var key string
	err := w.dialer.Enrol(t.Context(), addr, cellName, token, func(_ context.Context, pub crypto.PublicKey, keySHA256 string) ([]byte, error) {
		key = keySHA256
		return w.authority.SignCell(pub, cellName, time.Now().Add(-48*time.Hour))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = w.dialer.ServeGateway(t.Context(), addr, cellName, says("x"), func(*x509.Certificate) { t.Error("ready with an expired certificate") })
	wantError(t, "Kip was away for more than a day.", err, ErrExpired)

	err = w.dialer.Renew(t.Context(), addr, cellName, strings.Repeat("0", 64), func(context.Context, crypto.PublicKey, string) ([]byte, error) {
		t.Error("about to sign for a key that did not enrol")
		return nil, errors.New("no")
	})
	wantError(t, "Only the key that enrolled gets a new certificate.", err, ErrUntrusted)

	before := store.saves
	if err := w.dialer.Renew(t.Context(), addr, cellName, key, w.sign); err != nil {
		t.Fatal(err)
	}
	if store.saves != before+1 {
		t.Error("the new certificate was not kept")
	}
	session := startGateway(t, w.dialer, addr, says("x"))
	if got, _ := pki.KeySHA256(session.wait(t).PublicKey); got != key {
		t.Errorf("the renewed certificate is for key %s, want %s", got, key)
	}

	// Renewing does not disturb what is connected.
	if err := w.dialer.Renew(t.Context(), addr, cellName, key, w.sign); err != nil {
		t.Fatal(err)
	}
	resp, err := get(t.Context(), s, "/")
	if got := body(t, resp, err); got != "x" {
		t.Errorf("got %q", got)
	}
}

// An agent of a release with other protocols only is not taken for one that is
// broken or somebody else's.
func TestNoCommonProtocol(t *testing.T) {
	w := newWorld(t)
	done, _ := w.enrolled(t)
	l := listen(t)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*done.certificate}, NextProtos: []string{"kip-gateway/9"},
		ClientAuth: tls.RequireAnyClientCert,
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = tls.Server(conn, config).HandshakeContext(context.Background())
			_ = conn.Close()
		}
	}()
	defer func() {
		_ = l.Close()
		<-served
	}()
	addr := l.Addr().String()
	gateway := w.dialer.ServeGateway(t.Context(), addr, cellName, http.NotFoundHandler(), func(*x509.Certificate) {})
	wantError(t, "The gateway.", gateway, ErrIncompatible)
	wantError(t, "A first enrolment.", w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign), ErrIncompatible)
}
