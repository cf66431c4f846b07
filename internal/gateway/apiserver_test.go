package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/elotl/kip/v2/internal/gateway"
)

// apiServer is a real one, with the authorizers and admission of a cluster.
type apiServer struct{ url string }

// startAPIServer starts an etcd and a kube-apiserver that live as long as the
// test, or skips it.
func startAPIServer(t *testing.T) apiServer {
	t.Helper()
	if testing.Short() {
		t.Skip("starts an API server, which -short leaves out")
	}
	bin, err := filepath.Abs("../../.cache/tools/bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			t.Skipf("%s is not built: run make tools", program)
		}
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile := write("sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	tokens := write("tokens.csv", "admin,admin,1,system:masters\nkip,system:serviceaccount:kip:kip-provider,2,\"system:serviceaccounts,system:serviceaccounts:kip\"\n")

	etcd := fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	run(t, dir, filepath.Join(bin, "etcd"), "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", freePort(t)))
	port := freePort(t)
	run(t, dir, filepath.Join(bin, "kube-apiserver"), "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
		"--advertise-address", "127.0.0.1", "--cert-dir", dir, "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", keyFile, "--service-account-signing-key-file", keyFile,
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--disable-admission-plugins", "ServiceAccount", "--token-auth-file", tokens)

	s := apiServer{url: fmt.Sprintf("https://127.0.0.1:%d", port)}
	admin := s.client(t, "admin")
	deadline := time.Now().Add(time.Minute)
	for {
		// The roles that come with the API server are there when it is ready.
		_, err := admin.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		if err == nil {
			return s
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(dir, "kube-apiserver.log"))
			t.Fatalf("the API server is not ready: %v\n%s", err, log)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run runs a program until the test ends.
func run(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(program)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	})
}

func (s apiServer) config(token string) *rest.Config {
	return &rest.Config{Host: s.url, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
}

func (s apiServer) client(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(s.config(token))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// grant gives Kip the ClusterRole that is shipped, and no more.
func grant(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	f, err := os.Open("../../kustomize/base/cluster-role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	decoder := utilyaml.NewYAMLOrJSONDecoder(f, 4096)
	var role rbacv1.ClusterRole
	if err := decoder.Decode(&role); err != nil {
		t.Fatal(err)
	}
	var binding rbacv1.ClusterRoleBinding
	if err := decoder.Decode(&binding); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestAgainstAnAPIServer has a real API server behind the gateway, and Kip
// with the rights that it is shipped with.
func TestAgainstAnAPIServer(t *testing.T) {
	server := startAPIServer(t)
	admin, ctx := server.client(t, "admin"), t.Context()
	grant(t, admin)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}))
	virtual, err := admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	must(nil, err)
	attached := []corev1.AttachedVolume{{Name: "kubernetes.io/csi/disk.example.com^vol-1", DevicePath: ""}}
	virtual.Status.VolumesAttached = append(attached, corev1.AttachedVolume{Name: "kubernetes.io/csi/disk.example.com^vol-2"})
	must(admin.CoreV1().Nodes().UpdateStatus(ctx, virtual, metav1.UpdateOptions{}))
	must(admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "seller"}}, metav1.CreateOptions{}))
	for _, name := range []string{"password", "other"} {
		must(admin.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"p": "of " + name}}, metav1.CreateOptions{}))
	}
	must(admin.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{}))
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	must(admin.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-data"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			ClaimRef:               &corev1.ObjectReference{Namespace: ns, Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: "vol-1"}},
		},
	}, metav1.CreateOptions{}))
	must(admin.CoreV1().PersistentVolumeClaims(ns).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			VolumeName: "pv-data", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{}))
	must(admin.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}))
	pod := webPod()
	pod.ObjectMeta = metav1.ObjectMeta{Name: "web", Namespace: ns}
	pod.Spec.Volumes = append(pod.Spec.Volumes[:2:2], corev1.Volume{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}})
	pod, err = admin.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
	must(nil, err)

	h := newHarness(t, func(c *gateway.Config) {
		c.Upstream, c.Client = server.config("kip"), server.client(t, "kip")
	})
	h.State.Bind(cell, pod)
	kubelet := h.client(t, true).CoreV1()

	// What the pod refers to.
	eventually(t, "the Node authorizer knows the pod", func() bool {
		_, err := kubelet.Secrets(ns).Get(ctx, "password", metav1.GetOptions{})
		return err == nil
	})
	secret, err := kubelet.Secrets(ns).Get(ctx, "password", metav1.GetOptions{})
	if err != nil || string(secret.Data["p"]) != "of password" {
		t.Errorf("own secret: %v, %v", secret, err)
	}
	w, err := kubelet.ConfigMaps(ns).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=settings", AllowWatchBookmarks: true, SendInitialEvents: new(bool), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	must(nil, err)
	defer w.Stop()
	must(admin.CoreV1().ConfigMaps(ns).Patch(ctx, "settings", types.MergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{}))
	select {
	case e := <-w.ResultChan():
		if config, ok := e.Object.(*corev1.ConfigMap); e.Type != watch.Modified || !ok || config.Data["a"] != "2" {
			t.Errorf("watch: %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("the watch is silent")
	}
	if volume, err := kubelet.PersistentVolumes().Get(ctx, "pv-data", metav1.GetOptions{}); err != nil || volume.Spec.CSI.VolumeHandle != "vol-1" {
		t.Errorf("own volume: %v, %v", volume, err)
	}
	if n, err := kubelet.Nodes().Get(ctx, node, metav1.GetOptions{}); err != nil || !slices.Equal(n.Status.VolumesAttached, attached) {
		t.Errorf("own node: %v, attached %+v", err, n.Status.VolumesAttached)
	}
	token := func(namespace, account string, change func(*authenticationv1.TokenRequest)) error {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: pod.UID},
		}}
		change(request)
		answer, err := kubelet.ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
		if err == nil && strings.Count(answer.Status.Token, ".") != 2 {
			return fmt.Errorf("no token in %+v", answer)
		}
		return err
	}
	if err := token(ns, "seller", func(*authenticationv1.TokenRequest) {}); err != nil {
		t.Errorf("own token: %v", err)
	}
	if err := token(ns, "seller", func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"vault"} }); err != nil {
		t.Errorf("own token for vault: %v", err)
	}
	event := podEvent("web.1")
	event.InvolvedObject.UID = pod.UID
	must(kubelet.Events(ns).Create(ctx, event, metav1.CreateOptions{}))
	must(kubelet.Events(ns).Patch(ctx, "web.1", types.StrategicMergePatchType, []byte(`{"count":2}`), metav1.PatchOptions{}))
	if got, err := admin.CoreV1().Events(ns).Get(ctx, "web.1", metav1.GetOptions{}); err != nil || got.Count != 2 || got.Source.Host != node {
		t.Errorf("event: %+v, %v", got, err)
	}
	services, err := kubelet.Services("").List(ctx, metav1.ListOptions{LabelSelector: "!service.kubernetes.io/service-proxy-name"})
	if err != nil || len(services.Items) != 2 { // and default/kubernetes
		t.Errorf("services: %v, %v", services, err)
	}
	if _, err := h.client(t, true).NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("service CIDRs: %v", err)
	}

	// What it does not.
	for name, err := range map[string]error{
		"Secret":         second(kubelet.Secrets(ns).Get(ctx, "other", metav1.GetOptions{})),
		"Secrets":        second(kubelet.Secrets(ns).List(ctx, metav1.ListOptions{})),
		"Pod":            second(kubelet.Pods("kube-system").Get(ctx, "web", metav1.GetOptions{})),
		"Nodes":          second(kubelet.Nodes().List(ctx, metav1.ListOptions{})),
		"OtherAccount":   token("default", "default", func(*authenticationv1.TokenRequest) {}),
		"OtherAudience":  token(ns, "seller", func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"bank"} }),
		"OtherPodsToken": token(ns, "seller", func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.UID = "x" }),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want forbidden", name, err)
		}
	}

	// A wrong policy would meet the API server's own, and Kip alone can do
	// nothing of this.
	asNode := server.config("kip")
	asNode.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes"}}
	asOther := server.config("kip")
	asOther.Impersonate = rest.ImpersonationConfig{UserName: "admin", Groups: []string{"system:masters"}}
	for name, config := range map[string]*rest.Config{"Node": asNode, "Admin": asOther, "Kip": server.config("kip")} {
		client, err := kubernetes.NewForConfig(config)
		must(nil, err)
		if _, err := client.CoreV1().Secrets(ns).Get(context.Background(), "other", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("as %s: %v, want forbidden", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
