package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/pki"
)

func TestEnrol(t *testing.T) {
	w := newWorld(t)
	store := &memoryStore{}
	s, addr := w.agent(t, w.config(store))

	err := w.dialer.ServeGateway(t.Context(), addr, cellName, says("no"), func(*x509.Certificate) { t.Error("ready before enrolment") })
	wantError(t, "An agent without certificate says so.", err, ErrNotEnrolled)
	if s.isEnrolled() {
		t.Fatal("the agent is enrolled before it enrolled")
	}

	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Enrolled():
	default:
		t.Error("Enrolled is still open")
	}
	if s.token != nil || s.config.EnrolmentToken != "" {
		t.Error("the agent still knows the token")
	}
	if len(store.id.CertificatePEM) == 0 {
		t.Error("the certificate was not kept")
	}

	err = w.dialer.Enrol(t.Context(), addr, cellName, token, func(context.Context, crypto.PublicKey, string) ([]byte, error) {
		t.Error("asked to sign for a second enrolment")
		return nil, nil
	})
	wantError(t, "The token is dead.", err, ErrAlreadyEnrolled)

	transport := w.dialer.Transport(addr, cellName)
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://whatever/kip/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if got := body(t, resp, err); got != "hello" {
		t.Errorf("the agent's API says %q", got)
	}
}

// A Kip that died between the proof and the certificate must find the agent as
// it was, with the same key.
func TestEnrolAgainAfterFailure(t *testing.T) {
	w := newWorld(t)
	_, addr := w.agent(t, w.config(&memoryStore{}))
	broken := errors.New("the API server is away")
	var keys []string
	sign := func(fail error) SignFunc {
		return func(ctx context.Context, pub crypto.PublicKey, keySHA256 string) ([]byte, error) {
			keys = append(keys, keySHA256)
			if fail != nil {
				return nil, fail
			}
			return w.sign(ctx, pub, keySHA256)
		}
	}
	for range 3 {
		err := w.dialer.Enrol(t.Context(), addr, cellName, token, sign(broken))
		wantError(t, "The error of sign comes back.", err, broken)
	}
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, sign(nil)); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if key != keys[0] {
			t.Errorf("the agent offered different keys: %v", keys)
		}
	}
}

// What an agent may be told to install.
func TestAgentRefusesCertificates(t *testing.T) {
	w := newWorld(t)
	other, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		sign   SignFunc
		want   string
	}{
		"OtherAuthority": {
			reason: "User data names the authority.",
			sign: func(_ context.Context, pub crypto.PublicKey, _ string) ([]byte, error) {
				return other.SignCell(pub, cellName, time.Now())
			},
			want: "unknown authority",
		},
		"OtherCell": {
			reason: "It would be reached under a name that is not its own.",
			sign: func(_ context.Context, pub crypto.PublicKey, _ string) ([]byte, error) {
				return w.authority.SignCell(pub, "cell-b", time.Now())
			},
			want: "cell-b",
		},
		"OtherKey": {
			reason: "It has no private key for it.",
			sign: func(context.Context, crypto.PublicKey, string) ([]byte, error) {
				return w.authority.SignCell(foreign.Public(), cellName, time.Now())
			},
			want: "another key",
		},
		"Nonsense": {
			sign: func(context.Context, crypto.PublicKey, string) ([]byte, error) { return []byte("x"), nil },
			want: "no PEM",
		},
		"TooLong": {
			sign: func(context.Context, crypto.PublicKey, string) ([]byte, error) {
				return bytes.Repeat([]byte("x"), 2*enrolment.MaxMessageBytes), nil
			},
			want: "reading the grant",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s, addr := w.agent(t, w.config(&memoryStore{}))
			err := w.dialer.Enrol(t.Context(), addr, cellName, token, tc.sign)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s\ngot error %v, want one with %q", tc.reason, err, tc.want)
			}
			if s.isEnrolled() || s.token == nil {
				t.Errorf("%s\nthe agent is enrolled", tc.reason)
			}
		})
	}
}

// An agent that cannot keep its certificate is not enrolled: it would be lost
// with its process.
func TestAgentCannotKeepCertificate(t *testing.T) {
	w := newWorld(t)
	store := &memoryStore{}
	s, addr := w.agent(t, w.config(store))
	store.mu.Lock()
	store.err = errors.New("disk full")
	store.mu.Unlock()
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign); err == nil || s.isEnrolled() {
		t.Errorf("got error %v, enrolled %t; want an error and false", err, s.isEnrolled())
	}
	store.mu.Lock()
	store.err = nil
	store.mu.Unlock()
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign); err != nil {
		t.Error(err)
	}
}

// impostor serves TLS with a certificate of its own and answers each offer
// request with what answer makes of the session.
func impostor(t *testing.T, answer func(session tls.ConnectionState, publicKey []byte) []byte) string {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := selfSigned(key, cellName)
	if err != nil {
		t.Fatal(err)
	}
	publicKey, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(listen(t), &tls.Config{
		Certificates: []tls.Certificate{*cert},
		NextProtos:   []string{protocolEnrol},
		ClientAuth:   tls.RequestClientCert,
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serveImpostor(conn.(*tls.Conn), publicKey, answer)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func serveImpostor(conn *tls.Conn, publicKey []byte, answer func(tls.ConnectionState, []byte) []byte) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	_, _ = conn.Write(answer(conn.ConnectionState(), publicKey))
}

func okResponse(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	resp := http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(bytes.NewReader(data)), ContentLength: int64(len(data))}
	if err := resp.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func offer(t *testing.T, token, cell string, publicKey []byte, session tls.ConnectionState) enrolment.Offer {
	t.Helper()
	o, err := enrolment.NewOffer([]byte(token), cell, publicKey, session, "")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestKipRefusesToEnrolImpostors(t *testing.T) {
	w := newWorld(t)
	foreign, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	foreignKey, err := x509.MarshalPKIXPublicKey(foreign.Public())
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		answer func(session tls.ConnectionState, publicKey []byte) []byte
		want   error
		text   string
	}{
		"NoToken": {
			reason: "Whoever has not read the user data cannot make the proof.",
			answer: func(s tls.ConnectionState, key []byte) []byte {
				return okResponse(t, offer(t, "a guess", cellName, key, s))
			},
			want: enrolment.ErrProof,
		},
		"NoProof": {
			answer: func(_ tls.ConnectionState, key []byte) []byte {
				return okResponse(t, enrolment.Offer{Cell: cellName, PublicKey: key})
			},
			want: enrolment.ErrProof,
		},
		"OtherCell": {
			reason: "The agent of another cell is not this one's.",
			answer: func(s tls.ConnectionState, key []byte) []byte {
				return okResponse(t, offer(t, token, "cell-b", key, s))
			},
			want: enrolment.ErrProof,
		},
		"OtherKey": {
			reason: "The certificate would be for a key that the TLS session says nothing about.",
			answer: func(s tls.ConnectionState, _ []byte) []byte {
				return okResponse(t, offer(t, token, cellName, foreignKey, s))
			},
			want: enrolment.ErrProof,
		},
		"SaysItIsEnrolled": {
			answer: func(tls.ConnectionState, []byte) []byte {
				return []byte("HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}")
			},
			want: ErrAlreadyEnrolled,
		},
		"Error": {
			answer: func(tls.ConnectionState, []byte) []byte {
				return []byte("HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops")
			},
			text: `"oops"`,
		},
		"NotHTTP": {
			answer: func(tls.ConnectionState, []byte) []byte { return []byte("SSH-2.0-nothing\r\n") },
			text:   "malformed HTTP",
		},
		"EndlessHeader": {
			reason: "Kip must not keep what an impostor sends without end.",
			answer: func(tls.ConnectionState, []byte) []byte {
				return append([]byte("HTTP/1.1 200 OK\r\nX: "), bytes.Repeat([]byte("x"), 8*enrolment.MaxMessageBytes)...)
			},
			text: "EOF",
		},
		"LongBody": {
			answer: func(tls.ConnectionState, []byte) []byte {
				return append([]byte("HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"), bytes.Repeat([]byte("x"), 99999)...)
			},
			text: "too long",
		},
		"Silence": {
			answer: func(tls.ConnectionState, []byte) []byte { return nil },
			text:   "EOF",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			addr := impostor(t, tc.answer)
			err := w.dialer.Enrol(t.Context(), addr, cellName, token, func(context.Context, crypto.PublicKey, string) ([]byte, error) {
				t.Errorf("%s\nKip was about to sign", tc.reason)
				return nil, errors.New("no")
			})
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s\ngot error %v, want %v or one with %q", tc.reason, err, tc.want, tc.text)
			}
		})
	}
}

// Somebody between Kip and the agent, who even holds a certificate that the
// agent takes for Kip's, relays the agent's true offer: it is worth nothing in
// his own session with Kip.
func TestRelayedProof(t *testing.T) {
	w := newWorld(t)
	_, agentAddr := w.agent(t, w.config(&memoryStore{}))
	kipCertificate, err := w.authority.IssueClient(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	relay := func(rewriteKey bool) func(tls.ConnectionState, []byte) []byte {
		return func(_ tls.ConnectionState, myKey []byte) []byte {
			conn, err := tls.Dial("tcp", agentAddr, &tls.Config{
				InsecureSkipVerify: true, ServerName: cellName, NextProtos: []string{protocolEnrol},
				Certificates: []tls.Certificate{*kipCertificate},
			})
			if err != nil {
				t.Error(err)
				return nil
			}
			x, err := newExchange(t.Context(), conn)
			if err != nil {
				t.Error(err)
				return nil
			}
			defer x.close()
			var o enrolment.Offer
			if err := x.do(t.Context(), http.MethodGet, enrolment.OfferPath, cellName, nil, &o); err != nil {
				t.Error(err)
			}
			if _, err := o.Verify([]byte(token), cellName, conn.ConnectionState()); err != nil {
				t.Errorf("the relayed offer is not a true one: %v", err)
			}
			if rewriteKey {
				o.PublicKey = myKey
			}
			return okResponse(t, o)
		}
	}
	for _, rewriteKey := range []bool{false, true} {
		addr := impostor(t, relay(rewriteKey))
		err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign)
		wantError(t, "A proof is good for one session only.", err, enrolment.ErrProof)
	}
}

// A peer that accepts and then says nothing must not hold Kip.
func TestEnrolIsBoundedByContext(t *testing.T) {
	w := newWorld(t)
	l := listen(t)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			accepted <- conn
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := w.dialer.Enrol(ctx, l.Addr().String(), cellName, token, w.sign)
	wantError(t, "It says why it ended.", err, context.DeadlineExceeded)
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
	_ = (<-accepted).Close()
}
