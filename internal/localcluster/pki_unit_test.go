package localcluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestCertificates(t *testing.T) {
	s, err := newSettings("kip")
	if err != nil {
		t.Fatal(err)
	}
	c := certificates{filepath.Join(t.TempDir(), "pki")}
	if err := c.make(s); err != nil {
		t.Fatal(err)
	}
	for file, tc := range map[string]struct {
		ca, cn string
		usage  x509.ExtKeyUsage
		groups []string
	}{
		"apiserver":                {"ca", "kube-apiserver", x509.ExtKeyUsageServerAuth, nil},
		"apiserver-kubelet-client": {"ca", "kube-apiserver-kubelet-client", x509.ExtKeyUsageClientAuth, []string{"system:masters"}},
		"admin":                    {"ca", "kubernetes-admin", x509.ExtKeyUsageClientAuth, []string{"system:masters"}},
		"controller-manager":       {"ca", "system:kube-controller-manager", x509.ExtKeyUsageClientAuth, nil},
		"scheduler":                {"ca", "system:kube-scheduler", x509.ExtKeyUsageClientAuth, nil},
		"coredns":                  {"ca", "system:coredns", x509.ExtKeyUsageClientAuth, nil},
		"metrics-server":           {"ca", "system:metrics-server", x509.ExtKeyUsageClientAuth, nil},
		"metrics-server-serving":   {"ca", "metrics-server", x509.ExtKeyUsageServerAuth, nil},
		"node-0-serving":           {"ca", "system:node:node-0", x509.ExtKeyUsageServerAuth, []string{"system:nodes"}},
		"front-proxy-client":       {"front-proxy-ca", "front-proxy-client", x509.ExtKeyUsageClientAuth, nil},
	} {
		pair, err := tls.LoadX509KeyPair(c.path(file+".crt"), c.path(file+".key"))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		cert := pair.Leaf
		roots := x509.NewCertPool()
		for _, ca := range []string{"ca", "front-proxy-ca"} {
			data, err := os.ReadFile(c.path(ca + ".crt"))
			if err != nil {
				t.Fatal(err)
			}
			if ca == tc.ca && !roots.AppendCertsFromPEM(data) {
				t.Fatalf("%s is no certificate", ca)
			}
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{tc.usage}}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if len(cert.ExtKeyUsage) != 1 || cert.IsCA || cert.Subject.CommonName != tc.cn || !slices.Equal(cert.Subject.Organization, tc.groups) {
			t.Errorf("%s: %v %s %v", file, cert.ExtKeyUsage, cert.Subject.CommonName, cert.Subject.Organization)
		}
		if file == "apiserver" {
			for _, host := range []string{s.host().String(), "127.0.0.1", serviceIP, "localhost", "kubernetes.default.svc"} {
				if err := cert.VerifyHostname(host); err != nil {
					t.Error(err)
				}
			}
		}
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(c.path(e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		before[e.Name()] = string(data)
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
		}
	}

	// What an interrupted command left out is made, and nothing else.
	for _, lost := range []string{"scheduler.crt", "service-accounts.key"} {
		if err := os.Remove(c.path(lost)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.make(s); err != nil {
		t.Fatal(err)
	}
	for file, text := range before {
		data, err := os.ReadFile(c.path(file))
		if err != nil {
			t.Fatal(err)
		}
		if made := strings.HasPrefix(file, "scheduler.") || strings.HasPrefix(file, "service-accounts."); made == (string(data) == text) {
			t.Errorf("%s: made anew %t", file, string(data) != text)
		}
	}
	pub, err := os.ReadFile(c.path("service-accounts.pub"))
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := os.ReadFile(c.path("service-accounts.key"))
	if err != nil {
		t.Fatal(err)
	}
	keyBlock, _ := pem.Decode(keyPEM)
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if pubBlock, _ := pem.Decode(pub); err != nil || !bytes.Equal(pubBlock.Bytes, der) {
		t.Errorf("tokens would not verify: %v", err)
	}

	if err := os.WriteFile(c.path("ca.key"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.make(s); err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("the error must say what to delete: %v", err)
	}
}

func TestKubeconfig(t *testing.T) {
	s, err := newSettings("kip")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := certificates{filepath.Join(dir, "pki")}
	if err := c.make(s); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.kubeconfig")
	if err := c.kubeconfig(path, "https://10.98.255.1:6443", "admin", ""); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil || config.Host != "https://10.98.255.1:6443" || len(config.KeyData) == 0 || len(config.CAData) == 0 || config.Insecure {
		t.Errorf("%v, %v", config, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	token := program(t, "token")
	if err := c.kubeconfig(path, "https://10.98.255.1:6443", "kip-provider", token); err != nil {
		t.Fatal(err)
	}
	if config, err = clientcmd.BuildConfigFromFlags("", path); err != nil || config.BearerTokenFile != token || len(config.KeyData) != 0 {
		t.Errorf("%v, %v", config, err)
	}
	if err := c.kubeconfig(path, "", "nobody", ""); err == nil {
		t.Error("a kubeconfig without a certificate")
	}
}
