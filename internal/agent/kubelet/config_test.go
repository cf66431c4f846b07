package kubelet

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	kubeletv1 "k8s.io/kubelet/config/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var node = Node{
	ProxyMode: "nftables",
	Name:      "kip-provider-0", Address: netip.MustParseAddr("10.98.0.11"),
	DNSServers: []string{"10.96.0.10"}, DNSDomain: "cluster.local", ResolverFile: "/etc/resolv.conf",
	RuntimeSocket:      "/run/containerd/containerd.sock",
	CredentialProvider: "/opt/kip/bin/kip-cell",
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), -update to accept:\n%s", path, diff)
	}
}

func read(t *testing.T, root, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestKubeletConfiguration(t *testing.T) {
	root := t.TempDir()
	if err := node.Write(root); err != nil {
		t.Fatal(err)
	}
	content := read(t, root, ConfigFile)
	golden(t, "kubelet.json", content)

	// The hand-written struct must not drift from the kubelet's own: a field
	// the kubelet does not know would keep every cell from starting.
	var known kubeletv1beta1.KubeletConfiguration
	if err := yaml.UnmarshalStrict(content, &known); err != nil {
		t.Fatalf("the kubelet would refuse the file: %v", err)
	}
	if known.SyncFrequency.Seconds() != 10 || known.Authentication.X509.ClientCAFile != ClientCA || *known.RegisterNode {
		t.Errorf("the kubelet would read %+v", known)
	}
	if args := strings.Join(node.Args(), " "); !strings.Contains(args, "--hostname-override=kip-provider-0") ||
		!strings.Contains(args, "--node-ip=10.98.0.11") {
		t.Errorf("Args() = %s", args)
	}
}

func TestCredentialProvider(t *testing.T) {
	root := t.TempDir()
	if err := node.Write(root); err != nil {
		t.Fatal(err)
	}
	content := read(t, root, credentialProviderFile)
	golden(t, "credential-provider.json", content)
	var known kubeletv1.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(content, &known); err != nil {
		t.Fatalf("the kubelet would refuse the file: %v", err)
	}
	args := strings.Join(node.Args(), " ")
	if p := known.Providers[0]; p.Name != "kip-cell" || p.DefaultCacheDuration == nil ||
		!strings.Contains(args, "--image-credential-provider-bin-dir=/opt/kip/bin") || !strings.Contains(args, "--image-credential-provider-config="+credentialProviderFile) {
		t.Errorf("the kubelet would run %s %v, with %s", p.Name, p.Args, args)
	}
}

func TestProxyConfiguration(t *testing.T) {
	root := t.TempDir()
	if err := node.WriteProxy(root); err != nil {
		t.Fatal(err)
	}
	golden(t, "kube-proxy.json", read(t, root, proxyConfigFile))
}

func TestCredentials(t *testing.T) {
	root := t.TempDir()
	c := Credentials{
		CA: []byte("ca"), Server: KeyPair{[]byte("server"), []byte("server-key")},
		Kubelet: KeyPair{[]byte("kubelet"), []byte("kubelet-key")}, Proxy: KeyPair{[]byte("proxy"), []byte("proxy-key")},
	}
	for range 2 { // the agent writes them anew at every start
		if err := c.Write(root, "https://127.0.0.1:6443"); err != nil {
			t.Fatal(err)
		}
	}
	config, err := clientcmd.Load(read(t, root, Kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	cluster, user := config.Clusters["cell"], config.AuthInfos["cell"]
	if cluster.Server != "https://127.0.0.1:6443" || string(cluster.CertificateAuthorityData) != "ca" ||
		string(user.ClientKeyData) != "kubelet-key" || config.CurrentContext != "cell" {
		t.Errorf("client-go reads %+v %+v", cluster, user)
	}
	info, err := os.Stat(filepath.Join(root, ServerKey))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v; only root may read it", info.Mode(), err)
	}
	if !json.Valid(read(t, root, proxyKubeconfig)) {
		t.Error("kube-proxy's kubeconfig is no JSON")
	}
}
