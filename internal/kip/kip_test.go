package kip

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/userdata"
)

func TestAuthorityIsMadeOnceAndKept(t *testing.T) {
	set := fake.NewClientset()
	first, err := authority(t.Context(), set, "kip")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := set.CoreV1().Secrets("kip").Get(t.Context(), "kip-ca", metav1.GetOptions{})
	if err != nil || secret.Type != corev1.SecretTypeTLS || len(secret.Data) != 2 {
		t.Fatalf("%+v, %v", secret, err)
	}
	again, err := authority(t.Context(), set, "kip")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.CertificatesPEM(), again.CertificatesPEM()) || first.Signer().EnrolmentToken("u") != again.Signer().EnrolmentToken("u") {
		t.Error("a restarted Kip is another authority: no running cell would know it")
	}
}

// TestAuthorityRace: two Kips start at once; there is one authority.
func TestAuthorityRace(t *testing.T) {
	set := fake.NewClientset()
	winner, err := newAuthority("kip")
	if err != nil {
		t.Fatal(err)
	}
	set.PrependReactor("create", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		if err := set.Tracker().Add(winner); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewAlreadyExists(corev1.Resource("secrets"), "kip-ca")
	})
	got, err := authority(t.Context(), set, "kip")
	if err != nil || !bytes.Equal(got.CertificatesPEM(), winner.Data[corev1.TLSCertKey]) {
		t.Errorf("%v", err)
	}
}

func TestAuthorityErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		secret *corev1.Secret
		verb   string
		err    error
	}{
		"no right to read":   {nil, "get", apierrors.NewForbidden(corev1.Resource("secrets"), "kip-ca", errors.New("RBAC"))},
		"no right to create": {nil, "create", apierrors.NewForbidden(corev1.Resource("secrets"), "kip-ca", errors.New("RBAC"))},
		"empty":              {&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kip", Name: "kip-ca"}}, "", nil},
		"no key": {&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kip", Name: "kip-ca"},
			Data: map[string][]byte{corev1.TLSCertKey: newCA(t).CertificatesPEM()}}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			set := fake.NewClientset()
			if tc.secret != nil {
				if err := set.Tracker().Add(tc.secret); err != nil {
					t.Fatal(err)
				}
			}
			if tc.err != nil {
				set.PrependReactor(tc.verb, "secrets", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, tc.err })
			}
			if _, err := authority(t.Context(), set, "kip"); err == nil || !strings.Contains(err.Error(), "kip/kip-ca") {
				t.Errorf("the error must name the Secret: %v", err)
			}
			// Never is a broken authority replaced: cells that run would be lost.
			for _, a := range set.Actions() {
				if a.GetVerb() != "get" && a.GetVerb() != "create" {
					t.Errorf("%s", a.GetVerb())
				}
			}
		})
	}
}

func newCA(t *testing.T) *pki.Authorities {
	t.Helper()
	ca, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pki.NewAuthorities(ca)
}

func TestUserData(t *testing.T) {
	ca := newCA(t)
	cfg := &config.Config{Cells: config.Cells{PowerOffAfter: &metav1.Duration{Duration: time.Hour}}}
	cfg.Kubelet.ClusterDNS, cfg.Kubelet.ClusterDomain = []string{"10.96.0.10"}, "cluster.local"
	cfg.Cells.SandboxImage = "registry.k8s.io/pause:3.10"
	cfg.Cells.RegistryMirrors = []config.RegistryMirror{{Hosts: []string{"_default"}, Endpoint: "http://10.0.0.1:5000"}}
	encode := mustUserData(t, cfg, ca)
	cell := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "web-0123456789", UID: "uid-1"}}
	cell.Spec.Instance.Routes = []string{"10.20.0.0/16"}
	cell.Spec.Requirements.GPUs = 2
	data, err := encode(cell)
	if err != nil {
		t.Fatal(err)
	}

	// A repeated launch must be the same request, also after a restart of Kip
	// and whatever became of the Cell meanwhile.
	later := cell.DeepCopy()
	later.ResourceVersion, later.Status.Phase = "9", v1beta1.CellLaunching
	later.Status.Launch = &v1beta1.LaunchStatus{Authorities: ca.IDs()}
	if again, err := mustUserData(t, cfg, ca)(later); err != nil || !bytes.Equal(data, again) {
		t.Errorf("not the same bytes: %v", err)
	}

	// Nor does another authority change it.
	rotated := pki.NewAuthorities(newCA(t).Signer(), ca.Signer())
	if again, err := mustUserData(t, cfg, rotated)(later); err != nil || !bytes.Equal(data, again) {
		t.Errorf("not the same bytes with another authority: %v", err)
	}
	if fresh, err := mustUserData(t, cfg, rotated)(cell); err != nil || bytes.Equal(data, fresh) {
		t.Errorf("a cell that was not launched yet is told of the old authority: %v", err)
	}

	doc, err := userdata.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	want := userdata.Document{
		APIVersion: doc.APIVersion, Cell: "web-0123456789", CACertificates: string(ca.CertificatesPEM()), EnrolmentToken: ca.Signer().EnrolmentToken("uid-1"),
		Node:            userdata.Node{Name: "kip-provider-0", ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", MaxContainerLogMiB: maxContainerLogMiB},
		RegistryMirrors: []userdata.Mirror{{Hosts: []string{"_default"}, Endpoint: "http://10.0.0.1:5000"}}, SandboxImage: "registry.k8s.io/pause:3.10",
		Routes: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}, GPUs: 2, PowerOffAfterSeconds: 3600,
	}
	if diff := cmp.Diff(want, doc, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	key, err := ca.Signer().KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"PRIVATE KEY", strings.Split(string(key), "\n")[1]} {
		if strings.Contains(doc.CACertificates+doc.EnrolmentToken, secret) || bytes.Contains(data, []byte(secret)) {
			t.Errorf("pods may read user data, and it holds %q", secret)
		}
	}
	other := cell.DeepCopy()
	other.UID = "uid-2"
	if theirs, err := encode(other); err != nil || bytes.Equal(data, theirs) {
		t.Errorf("another Cell of the same name has the same token: %v", err)
	}
}

func mustUserData(t *testing.T, cfg *config.Config, ca *pki.Authorities) func(*v1beta1.Cell) ([]byte, error) {
	t.Helper()
	encode, err := userData(cfg, Options{NodeName: "kip-provider-0"}, ca)
	if err != nil {
		t.Fatal(err)
	}
	return encode
}

func TestCloudInitFile(t *testing.T) {
	ca := newCA(t)
	random := make([]byte, 2*userdata.MaxBytes)
	_, _ = rand.Read(random)
	for name, tc := range map[string]struct {
		reason, content string
		want            []string // in the error; none means it works
	}{
		"config":    {reason: "the ordinary case", content: "#cloud-config\nhostname: a\n"},
		"missing":   {reason: "a wrong path is told at the start", want: []string{"cells.cloudInitFile", "no such file"}},
		"no header": {reason: "cloud-init would ignore it", content: "hostname: a\n", want: []string{"cells.cloudInitFile", "cloud.yaml", "#cloud-config"}},
		"too large": {
			reason: "no cell could be launched", content: "#!/bin/sh\n# " + hex.EncodeToString(random) + "\n",
			want: []string{"cells.cloudInitFile", "cloud.yaml", fmt.Sprint(4*userdata.MaxBytes + 13), "too large"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &config.Config{Cells: config.Cells{PowerOffAfter: &metav1.Duration{}}}
			cfg.Cells.CloudInitFile = filepath.Join(t.TempDir(), "cloud.yaml")
			if tc.content != "" {
				if err := os.WriteFile(cfg.Cells.CloudInitFile, []byte(tc.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			encode, err := userData(cfg, Options{NodeName: "kip-provider-0"}, ca)
			for _, w := range tc.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%s: error %v, want %q in it", tc.reason, err, w)
				}
			}
			if len(tc.want) > 0 {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := encode(&v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "web"}})
			if err != nil || !bytes.Contains(data, []byte(tc.content)) {
				t.Fatalf("%s: %q, %v", tc.reason, data, err)
			}
			if doc, err := userdata.Decode(data); err != nil || doc.Cell != "web" {
				t.Errorf("%s: the agent reads %+v, %v", tc.reason, doc, err)
			}
		})
	}
}

func TestPortOf(t *testing.T) {
	for listen, want := range map[string]int32{":10250": 10250, "10.0.0.1:1": 1, "[::1]:65535": 65535} {
		if got, err := portOf(listen); err != nil || got != want {
			t.Errorf("%s: %d, %v", listen, got, err)
		}
	}
	for _, listen := range []string{"", "10250", ":", ":http", ":65536", ":-1", "::1:10250"} {
		if _, err := portOf(listen); err == nil || !strings.Contains(err.Error(), "--kubelet-listen") {
			t.Errorf("%s: the error must name the flag: %v", listen, err)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	t.Setenv("POD_IP", "")
	dir := t.TempDir()
	bad := filepath.Join(dir, "provider.yaml")
	if err := os.WriteFile(bad, []byte("cloud: {aws: {regoin: us-west-2}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good.yaml")
	if err := os.WriteFile(good, []byte("cloud: {aws: {region: us-west-2, vpcID: vpc-1}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no node IP":     {nil, "--node-ip"},
		"log level":      {[]string{"--node-ip=10.0.0.1", "--log-level=loud"}, "--log-level"},
		"argument":       {[]string{"--node-ip=10.0.0.1", "now"}, "now"},
		"unknown flag":   {[]string{"--node-pi=10.0.0.1"}, "node-pi"},
		"no file":        {[]string{"--node-ip=10.0.0.1", "--provider-config=" + filepath.Join(dir, "none")}, "none"},
		"unknown key":    {[]string{"--node-ip=10.0.0.1", "--provider-config=" + bad}, "regoin"},
		"no API server":  {[]string{"--node-ip=10.0.0.1", "--provider-config=" + good, "--kubeconfig=" + filepath.Join(dir, "none")}, "--kubeconfig"},
		"not in cluster": {[]string{"--node-ip=10.0.0.1", "--provider-config=" + good}, "--kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := NewCommand()
			cmd.SetArgs(append([]string{"--health-listen=0"}, tc.args...)) // another Kip may run here
			cmd.SetOut(&bytes.Buffer{})
			cmd.SetErr(&bytes.Buffer{})
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %s", err, tc.want)
			}
		})
	}
}
