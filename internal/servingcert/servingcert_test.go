package servingcert

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/pki"
)

func TestSigner(t *testing.T) {
	for name, tc := range map[string]struct{ flag, version, want string }{
		"EKS":        {"auto", "v1.33.1-eks-595af52", "beta.eks.amazonaws.com/app-serving"},
		"Elsewhere":  {"auto", "v1.36.3", "kubernetes.io/kubelet-serving"},
		"SelfSigned": {"self-signed", "v1.33.1-eks-595af52", "self-signed"},
		"Named":      {"example.com/kubelets", "v1.36.3", "example.com/kubelets"},
		"NoName":     {"kubelet-serving", "v1.36.3", ""},
		"Empty":      {"", "v1.36.3", ""},
	} {
		got, err := Signer(tc.flag, tc.version)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), "--kubelet-serving-signer") {
			t.Errorf("%s: the error must name the flag: %v", name, err)
		}
	}
}

// cluster signs requests, if it is let, when they have been approved.
type cluster struct {
	*fake.Clientset
	ca *pki.Authority

	mu sync.Mutex
	// What the cluster does.
	mayRequest, mayApprove bool
	denies, signs          bool
	life                   time.Duration
	signers                []string // of the requests, oldest first
	creators               []string // "Kip" or "node"
	names                  []string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	ca, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Clientset: fake.NewClientset(), ca: ca, mayRequest: true, mayApprove: true, signs: true, life: 365 * 24 * time.Hour}
}

// as is the cluster seen by one of two.
func (c *cluster) as(who string) *fake.Clientset {
	set := fake.NewClientset()
	set.PrependReactor("*", "certificatesigningrequests", func(action k8stesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		resource := certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests")
		switch action.GetVerb() {
		case "create":
			request := action.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
			if !c.mayRequest {
				return true, nil, apierrors.NewForbidden(resource.GroupResource(), request.Name, errors.New("RBAC"))
			}
			c.signers, c.creators, c.names = append(c.signers, request.Spec.SignerName), append(c.creators, who), append(c.names, request.Name)
			return true, request, c.Tracker().Create(resource, request, "")
		case "update":
			request := action.(k8stesting.UpdateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
			if action.GetSubresource() != "approval" || who != "Kip" || !c.mayApprove {
				return true, nil, apierrors.NewForbidden(resource.GroupResource(), request.Name, errors.New("RBAC"))
			}
			return true, request, c.Tracker().Update(resource, request, "")
		case "get":
			object, err := c.Tracker().Get(resource, "", action.(k8stesting.GetAction).GetName())
			if err != nil {
				return true, nil, err
			}
			request := object.(*certificatesv1.CertificateSigningRequest)
			if c.denies {
				request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
					Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "Policy", Message: "not here"}}
			} else if c.signs && approved(request) {
				request.Status.Certificate = c.sign(request.Spec.Request)
			}
			return true, request, nil
		}
		return false, nil, nil
	})
	return set
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cluster) sign(request []byte) []byte {
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		panic(err)
	}
	keyPEM, err := c.ca.KeyPEM()
	if err != nil {
		panic(err)
	}
	pair, err := tls.X509KeyPair(c.ca.CertificatePEM(), keyPEM)
	if err != nil {
		panic(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: csr.Subject, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
		NotBefore: time.Now(), NotAfter: time.Now().Add(c.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, pair.Leaf, csr.PublicKey, pair.PrivateKey)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// approveAll is the person.
func (c *cluster) approveAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	resource := certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests")
	for _, name := range c.names {
		object, err := c.Tracker().Get(resource, "", name)
		if err != nil {
			panic(err)
		}
		request := object.(*certificatesv1.CertificateSigningRequest)
		request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
		if err := c.Tracker().Update(resource, request, ""); err != nil {
			panic(err)
		}
	}
}

// world is a Manager that runs, and the cluster around it, in a bubble.
type world struct {
	*cluster
	*Manager
	events *record.FakeRecorder
}

func run(t *testing.T, signer string, change func(*cluster)) *world {
	t.Helper()
	c := newCluster(t)
	if change != nil {
		change(c)
	}
	events := record.NewFakeRecorder(100)
	m, err := New(Config{
		Kip: c.as("Kip"), Node: c.as("node"), Signer: signer, NodeName: "kip-provider-0", NodeIP: "10.0.0.5",
		Events: events, Clock: clock.RealClock{}, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &world{c, m, events}
}

// serving is the certificate that a client of the kubelet API sees.
func (w *world) serving(t *testing.T) *x509.Certificate {
	t.Helper()
	c, err := w.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// checked is the API server's opinion.
func (w *world) checked(t *testing.T) error {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.ca.CertificatePEM())
	_, err := w.serving(t).Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.0.0.5", CurrentTime: time.Now()})
	return err
}

// told are the events since the last call.
func (w *world) told() (all []string) {
	for {
		select {
		case e := <-w.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func TestCertificateIsSigned(t *testing.T) {
	for signer, creator := range map[string]string{
		certificatesv1.KubeletServingSignerName: "node", // the signer wants the node itself to ask
		EKSSigner:                               "Kip",
	} {
		t.Run(signer, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, signer, nil)
				if err := w.checked(t); err == nil {
					t.Error("before there is a signed certificate Kip serves with its own")
				}
				// A restarted Kip must be good for kubectl exec within seconds.
				time.Sleep(time.Second)
				if err := w.checked(t); err != nil {
					t.Errorf("an API server that checks: %v", err)
				}
				leaf := w.serving(t)
				if leaf.Subject.CommonName != "system:node:kip-provider-0" || !slices.Equal(leaf.Subject.Organization, []string{"system:nodes"}) ||
					!slices.Equal(leaf.DNSNames, []string{"kip-provider-0"}) {
					t.Errorf("the certificate is for %s, %v", leaf.Subject, leaf.DNSNames)
				}
				w.set(func() {
					if diff := cmp.Diff([]string{creator}, w.creators); diff != "" {
						t.Errorf("who asked: -want +got:\n%s", diff)
					}
					if strings.HasPrefix(w.names[0], "csr-") {
						t.Errorf("EKS signs no request named %s", w.names[0])
					}
				})
				if n := testutil.ToFloat64(w.signedMetric); n != 1 {
					t.Errorf("the metric says %v", n)
				}
				if n := testutil.ToFloat64(w.expiry); n != float64(leaf.NotAfter.Unix()) {
					t.Errorf("the metric says %v", n)
				}
				if told := w.told(); len(told) > 0 {
					t.Errorf("nothing is wrong, and the events are %v", told)
				}
			})
		})
	}
}

func TestCertificateIsRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, EKSSigner, func(c *cluster) { c.life = 24 * time.Hour })
		time.Sleep(time.Second)
		first := w.serving(t)
		time.Sleep(17 * time.Hour) // 70 % of it
		if !w.serving(t).Equal(first) {
			t.Error("renewed too early")
		}
		time.Sleep(4 * time.Hour)
		second := w.serving(t)
		if second.Equal(first) || w.checked(t) != nil {
			t.Errorf("not renewed in time: %v", w.checked(t))
		}
		if bytes.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
			t.Error("the key was not renewed")
		}
		// Nobody signs any more: what there is serves to its last second.
		w.set(func() { w.signs = false })
		time.Sleep(time.Until(second.NotAfter) - time.Second)
		if !w.serving(t).Equal(second) || len(w.told()) > 0 {
			t.Error("a certificate that is good was given up")
		}
		time.Sleep(time.Minute)
		if now := w.serving(t); now.Equal(second) || time.Now().After(now.NotAfter) {
			t.Error("an expired certificate is served")
		}
		told := w.told()
		if len(told) != 1 || !strings.Contains(told[0], "Warning KubeletCertificateSelfSigned") || !strings.Contains(told[0], "expired") {
			t.Errorf("the events are %v", told)
		}
		w.set(func() { w.signs = true })
		time.Sleep(time.Minute)
		if err := w.checked(t); err != nil {
			t.Errorf("once it is signed: %v", err)
		}
	})
}

// TestApprovalByAPerson: Kip asks once and waits, for days if need be.
func TestApprovalByAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, certificatesv1.KubeletServingSignerName, func(c *cluster) { c.mayApprove = false })
		time.Sleep(3 * 24 * time.Hour)
		w.set(func() {
			if len(w.signers) != 1 {
				t.Errorf("%d requests", len(w.signers))
			}
		})
		told := w.told()
		if len(told) != 1 || !strings.Contains(told[0], w.names[0]) || !strings.Contains(told[0], "approved?") {
			t.Errorf("the event must name the request, once: %v", told)
		}
		if n := testutil.ToFloat64(w.signedMetric); n != 0 {
			t.Errorf("the metric says %v", n)
		}
		w.approveAll()
		time.Sleep(maxLook + time.Second)
		if err := w.checked(t); err != nil {
			t.Errorf("after the approval: %v", err)
		}
	})
}

func TestRequestsThatComeToNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		cluster func(*cluster)
		want    string
		atMost  int // requests in a day
	}{
		"Denied":  {"a policy refuses", func(c *cluster) { c.denies = true }, "Denied: Policy: not here", 110},
		"NoRight": {"the ClusterRole is an old one", func(c *cluster) { c.mayRequest = false }, "forbidden", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, EKSSigner, tc.cluster)
				time.Sleep(time.Second)
				told := w.told()
				if len(told) != 1 || !strings.Contains(told[0], tc.want) {
					t.Errorf("%s: at once, and with the reason: %v", tc.reason, told)
				}
				time.Sleep(24 * time.Hour)
				if told := w.told(); len(told) > 0 {
					t.Errorf("%s: told again: %v", tc.reason, told)
				}
				w.set(func() {
					if len(w.signers) > tc.atMost {
						t.Errorf("%s: %d requests in a day", tc.reason, len(w.signers))
					}
					w.denies, w.mayRequest = false, true
				})
				time.Sleep(maxRetry + time.Minute)
				if err := w.checked(t); err != nil {
					t.Errorf("%s: once the cause is gone: %v", tc.reason, err)
				}
			})
		})
	}
}

func TestSelfSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, SelfSigned, nil)
		time.Sleep(time.Hour)
		leaf := w.serving(t)
		if err := leaf.VerifyHostname("10.0.0.5"); err != nil || time.Now().AddDate(0, 11, 0).After(leaf.NotAfter) {
			t.Errorf("%v, until %v", err, leaf.NotAfter)
		}
		w.set(func() {
			if len(w.signers) > 0 {
				t.Errorf("asked %v", w.signers)
			}
		})
	})
	if _, err := New(Config{NodeIP: "kip.example.com"}); err == nil || !strings.Contains(err.Error(), "--node-ip") {
		t.Errorf("an address that is none: %v", err)
	}
}

// What a signer returns is looked at before it is used: a certificate that the
// API server will not take is worse than one that says so.
func TestAccept(t *testing.T) {
	c := newCluster(t)
	i := identity{"kip-provider-0", []byte{10, 0, 0, 5}}
	request, key, err := i.request()
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := i.request()
	if err != nil {
		t.Fatal(err)
	}
	chain := c.sign(request)
	if got, err := i.accept(append(chain, c.ca.CertificatePEM()...), key, time.Now()); err != nil || len(got.Certificate) != 2 {
		t.Errorf("a chain: %v", err)
	}
	if _, err := i.accept(chain, otherKey, time.Now()); err == nil {
		t.Error("a certificate for another key was taken")
	}
	if _, err := i.accept(chain, key, time.Now().AddDate(2, 0, 0)); err == nil {
		t.Error("an expired certificate was taken")
	}
	if _, err := (identity{"kip-provider-0", []byte{10, 0, 0, 6}}).accept(chain, key, time.Now()); err == nil {
		t.Error("a certificate for another address was taken")
	}
	if _, err := i.accept([]byte("-----BEGIN"), key, time.Now()); err == nil {
		t.Error("no certificate was taken")
	}
}
