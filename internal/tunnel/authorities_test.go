package tunnel

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

// An agent that was told of another authority lets in its Kip and no other, also
// after a restart; and a Kip that has both shows the certificate that is taken.
func TestAgentIsToldOfAnAuthority(t *testing.T) {
	w := newWorld(t)
	next, err := pki.Create(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	store := &memoryStore{}
	s, err := NewServer(w.config(store))
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := serve(t, s)
	defer stop()
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign); err != nil {
		t.Fatal(err)
	}
	key, err := pki.KeySHA256(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	// dialer is that of a Kip with these authorities, which takes any cell's.
	dialer := func(tell string, authorities ...*pki.Authority) *Dialer {
		all := pki.NewAuthorities(authorities[0], authorities[1:]...)
		roots := w.authority.Roots()
		roots.AddCert(certificateOf(t, next))
		return NewDialer(DialerConfig{
			ClientCertificate: pki.NewClient(all, time.Now).Certificate, Roots: roots, CACertificates: tell, Logger: quiet(),
		})
	}
	reach := func(d *Dialer) error {
		transport := d.Transport(addr, cellName)
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("https://cell/kip/v1/status")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	oldKip, newKip, both := dialer("", w.authority), dialer("", next), dialer("", next, w.authority)
	if err := reach(newKip); err == nil {
		t.Error("an agent lets in the Kip of an authority that it was not told of")
	}
	if err := reach(both); err != nil {
		t.Errorf("a Kip that has both does not show the one that is taken: %v", err)
	}

	sign := func(_ context.Context, pub crypto.PublicKey, _ string) ([]byte, error) {
		return next.SignCell(pub, cellName, time.Now())
	}
	if err := oldKip.Renew(t.Context(), addr, cellName, key, sign); err == nil {
		t.Error("an agent takes a certificate of an authority that it was not told of")
	}
	if err := dialer(string(next.CertificatePEM()), w.authority).Renew(t.Context(), addr, cellName, key, sign); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if err := reach(oldKip); err == nil {
			t.Errorf("%s: the Kip of the authority that was given up is let in", when)
		}
		for name, d := range map[string]*Dialer{"new": newKip, "both": both} {
			if err := reach(d); err != nil {
				t.Errorf("%s: the Kip with %s: %v", when, name, err)
			}
		}
	}
	check("told")
	// A renewal that tells nothing changes nothing.
	if err := newKip.Renew(t.Context(), addr, cellName, key, sign); err != nil {
		t.Fatal(err)
	}
	check("renewed")
	stop()
	if s, err = NewServer(w.config(store)); err != nil {
		t.Fatal(err)
	}
	addr, stop = serve(t, s)
	defer stop()
	check("restarted")
}

func certificateOf(t *testing.T, a *pki.Authority) *x509.Certificate {
	t.Helper()
	cert, err := pki.ParseCertificate(a.CertificatePEM())
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// An agent of an earlier release takes the certificate and overlooks the rest:
// Kip must not think that it took both.
func TestAgentThatCannotBeTold(t *testing.T) {
	w := newWorld(t)
	s, _ := w.enrolled(t)
	key, err := pki.KeySHA256(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*s.certificate}, ClientAuth: tls.RequireAnyClientCert},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	defer func() {
		_ = server.Shutdown(context.Background())
		<-done
	}()
	d := w.dialerFor(w.authority, DialerConfig{CACertificates: string(w.authority.CertificatePEM())})
	wantError(t, "It does not say that it took them.", d.Renew(t.Context(), l.Addr().String(), cellName, key, w.sign), ErrKeepsAuthorities)
}
