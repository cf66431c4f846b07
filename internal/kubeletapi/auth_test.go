package kubeletapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// clientCertificate is a certificate that a CA of its own has signed.
func clientCertificate(t *testing.T, name string) (ca []byte, certificate tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	caKey, key := newKey(), newKey()
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(root, root, caKey, caKey)})
	leaf := sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, root, key, caKey)
	return ca, tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}
}

func answer(t *testing.T, w http.ResponseWriter, v any) {
	t.Helper()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

func decode(t *testing.T, r *http.Request, v any) {
	t.Helper()
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		t.Error(err)
	}
}

func TestClusterAuth(t *testing.T) {
	ca, certificate := clientCertificate(t, "kube-apiserver-kubelet-client")
	_, forged := clientCertificate(t, "kube-apiserver-kubelet-client")
	var mu sync.Mutex
	asked := map[string]bool{}
	api := http.NewServeMux()
	api.HandleFunc("GET /api/v1/namespaces/kube-system/configmaps", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			http.Error(w, "no watch here", http.StatusBadRequest)
			return
		}
		answer(t, w, &corev1.ConfigMapList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"},
			Items: []corev1.ConfigMap{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "extension-apiserver-authentication"},
				Data:       map[string]string{"client-ca-file": string(ca)},
			}},
		})
	})
	api.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		decode(t, r, &review)
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: review.Spec.Token == "good", User: authenticationv1.UserInfo{Username: "reader"}}
		answer(t, w, &review)
	})
	api.HandleFunc("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		decode(t, r, &review)
		a := review.Spec.ResourceAttributes
		mu.Lock()
		asked[review.Spec.User+" "+a.Verb+" "+a.Resource+"/"+a.Subresource+" "+a.Name] = true
		mu.Unlock()
		review.Status.Allowed = review.Spec.User == "kube-apiserver-kubelet-client" || a.Verb == "get"
		answer(t, w, &review)
	})
	apiserver := httptest.NewServer(api)
	defer apiserver.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: apiserver.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	auth, run, err := ClusterAuth(client, "kip-provider-0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { run(ctx) })
	defer wg.Wait()
	defer cancel()

	h := newHarness(t)
	config := h.Config
	config.Auth = auth
	server := httptest.NewUnstartedServer(New(config).Handler())
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	get := func(path, token string, certificates ...tls.Certificate) int {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates}}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	const logs, exec = "/containerLogs/shop/web/app", "/exec/shop/web/app"
	for deadline := time.Now().Add(10 * time.Second); get(logs, "", certificate) != 200; {
		if time.Now().After(deadline) {
			t.Fatal("the cluster's own client certificate is not accepted")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for name, tc := range map[string]struct{ got, want int }{
		"API server, exec":        {get(exec, "", certificate), 200},
		"another CA's":            {get(logs, "", forged), 401},
		"nobody":                  {get(logs, ""), 401},
		"good token":              {get(logs, "good"), 200},
		"good token, exec":        {get(exec, "good"), 403},
		"bad token":               {get(logs, "bad"), 401},
		"bad token, good CA, too": {get(logs, "bad", certificate), 200},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %d, want %d", name, tc.got, tc.want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"reader get nodes/proxy kip-provider-0", "reader create nodes/proxy kip-provider-0"} {
		if !asked[want] {
			t.Errorf("%q was not asked; asked %v", want, asked)
		}
	}
}
