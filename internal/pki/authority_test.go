package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func create(t *testing.T) *Authority {
	t.Helper()
	a, err := Create(now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func signCell(t *testing.T, a *Authority, cell string) *x509.Certificate {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.SignCell(key.Public(), cell, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificatesAreForOnePurpose(t *testing.T) {
	a, other := create(t), create(t)
	client, err := a.IssueClient(now)
	if err != nil {
		t.Fatal(err)
	}
	cell := signCell(t, a, "cell-a")
	cases := map[string]struct {
		reason string
		cert   *x509.Certificate
		roots  *x509.CertPool
		name   string
		usage  x509.ExtKeyUsage
		at     time.Time
		ok     bool
	}{
		"CellServes": {
			reason: "What it is for.",
			cert:   cell, roots: a.Roots(), name: "cell-a", usage: x509.ExtKeyUsageServerAuth, at: now, ok: true,
		},
		"CellAsClient": {
			reason: "A cell must not pose as Kip to another cell.",
			cert:   cell, roots: a.Roots(), usage: x509.ExtKeyUsageClientAuth, at: now,
		},
		"CellUnderAnotherName": {
			reason: "A cell must not pose as another cell.",
			cert:   cell, roots: a.Roots(), name: "cell-b", usage: x509.ExtKeyUsageServerAuth, at: now,
		},
		"KipAsClient": {
			reason: "What it is for.",
			cert:   client.Leaf, roots: a.Roots(), usage: x509.ExtKeyUsageClientAuth, at: now, ok: true,
		},
		"KipAsServer": {
			reason: "Kip's certificate is no cell's.",
			cert:   client.Leaf, roots: a.Roots(), usage: x509.ExtKeyUsageServerAuth, at: now,
		},
		"OtherAuthority": {
			reason: "Another Kip's cells are not ours.",
			cert:   cell, roots: other.Roots(), name: "cell-a", usage: x509.ExtKeyUsageServerAuth, at: now,
		},
		"Expired": {
			cert: cell, roots: a.Roots(), name: "cell-a", usage: x509.ExtKeyUsageServerAuth, at: now.Add(CertificateLifetime + time.Second),
		},
		"ClockBehind": {
			reason: "An instance's clock may be behind when it boots.",
			cert:   client.Leaf, roots: a.Roots(), usage: x509.ExtKeyUsageClientAuth, at: now.Add(-59 * time.Minute), ok: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := tc.cert.Verify(x509.VerifyOptions{Roots: tc.roots, DNSName: tc.name, KeyUsages: []x509.ExtKeyUsage{tc.usage}, CurrentTime: tc.at})
			if (err == nil) != tc.ok {
				t.Errorf("%s\ngot error %v, want success %t", tc.reason, err, tc.ok)
			}
		})
	}
	if client.Leaf.Subject.CommonName != ClientName {
		t.Errorf("the client is %q, want %q", client.Leaf.Subject.CommonName, ClientName)
	}
}

// A cell's certificate must not sign others, whatever a reader of it forgets.
func TestCellIsNoAuthority(t *testing.T) {
	a := create(t)
	if cert := signCell(t, a, "cell-a"); cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Errorf("a cell's certificate may sign: IsCA %t, key usage %b", cert.IsCA, cert.KeyUsage)
	}
}

func TestLoad(t *testing.T) {
	a, other := create(t), create(t)
	keyPEM := func(a *Authority) []byte {
		text, err := a.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	leafKey, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.SignCell(leafKey.Public(), "cell-a", now)
	if err != nil {
		t.Fatal(err)
	}
	leafKeyPEM, err := EncodeKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	wrongCurve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrongCurvePEM, err := EncodeKey(wrongCurve)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason    string
		cert, key []byte
		want      string
	}{
		"Same":           {reason: "A restarted Kip takes up what it kept.", cert: a.CertificatePEM(), key: keyPEM(a)},
		"NoCertificate":  {cert: nil, key: keyPEM(a), want: "certificate: no PEM"},
		"NoKey":          {cert: a.CertificatePEM(), key: nil, want: "key: no PEM"},
		"KeyOfAnother":   {cert: a.CertificatePEM(), key: keyPEM(other), want: "does not belong"},
		"Exchanged":      {cert: keyPEM(a), key: a.CertificatePEM(), want: `it is a "PRIVATE KEY"`},
		"NotAnAuthority": {cert: leaf, key: leafKeyPEM, want: "not an authority's"},
		"WrongCurve":     {cert: a.CertificatePEM(), key: wrongCurvePEM, want: "P-256"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			loaded, err := Load(tc.cert, tc.key)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%s\ngot error %v, want one with %q", tc.reason, err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s\n%v", tc.reason, err)
			}
			if got, want := loaded.EnrolmentToken("uid"), a.EnrolmentToken("uid"); got != want {
				t.Errorf("%s\ntoken %q, want %q", tc.reason, got, want)
			}
			cert := signCell(t, loaded, "cell-a")
			if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Roots(), DNSName: "cell-a", CurrentTime: now}); err != nil {
				t.Errorf("%s\n%v", tc.reason, err)
			}
		})
	}
}

func TestEnrolmentToken(t *testing.T) {
	a, other := create(t), create(t)
	seen := map[string]string{}
	for who, token := range map[string]string{
		"first cell":        a.EnrolmentToken(types.UID("1")),
		"second cell":       a.EnrolmentToken(types.UID("2")),
		"another authority": other.EnrolmentToken(types.UID("1")),
	} {
		if len(token) < 43 {
			t.Errorf("%s: token %q has less than 256 bits", who, token)
		}
		if twin, ok := seen[token]; ok {
			t.Errorf("%s and %s have the same token", who, twin)
		}
		seen[token] = who
	}
}

func TestKeySHA256(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	got, err := KeySHA256(key.Public())
	if err != nil || len(got) != 64 {
		t.Errorf("got %q, %v, want 64 hex digits", got, err)
	}
	if _, err := KeySHA256("no key"); err == nil {
		t.Error("want an error for what is no key")
	}
}

func TestClient(t *testing.T) {
	a := create(t)
	clock := now
	c := NewClient(NewAuthorities(a), func() time.Time { return clock })
	get := func() *x509.Certificate {
		cert, err := c.Certificate(&tls.CertificateRequestInfo{Version: tls.VersionTLS13, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}})
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf
	}
	first := get()
	for _, step := range []struct {
		reason string
		at     time.Time
		same   bool
	}{
		{"it is fresh", now.Add(15 * time.Hour), true},
		{"two thirds are over", now.Add(16 * time.Hour), false},
		{"the clock was set back before it began", now.Add(-2 * time.Hour), false},
	} {
		clock = step.at
		got := get()
		if same := got.Equal(first); same != step.same {
			t.Errorf("%s: same certificate %t, want %t", step.reason, same, step.same)
		}
		if clock.Before(got.NotBefore) || clock.After(got.NotAfter) {
			t.Errorf("%s: the certificate is not valid at %s", step.reason, clock)
		}
		first = got
	}
}
