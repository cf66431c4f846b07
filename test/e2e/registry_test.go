package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

const (
	privateRegistry = "private.kip.test"
	privateImage    = privateRegistry + "/kip-e2e:latest"
	registryUser    = "puller"
	registryPass    = "of-the-test"
)

// TestPrivateRegistry pulls from a registry that wants a login: with the pod's
// imagePullSecret, which the cell's kubelet reads through the gateway, and not
// without it.
func TestPrivateRegistry(t *testing.T) {
	s := newSpace(t)
	pulls := servePrivateRegistry(s)
	for secret, password := range map[string]string{"right": registryPass, "wrong": "guessed"} {
		s.createPullSecret(secret, password)
	}
	pull := func(pod string, secrets ...string) *corev1.Pod {
		p := newPod(pod, small("main", privateImage))
		p.Spec.Containers[0].Args = []string{"serve"}
		for _, secret := range secrets {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
		}
		return p
	}
	s.create(pull("without"))
	s.create(pull("with-wrong", "wrong"))
	s.create(pull("with-right", "right"))
	s.create(pull("with-both", "wrong", "right")) // the kubelet tries one after the other
	s.awaitReady("with-right")
	s.awaitReady("with-both")
	s.awaitRefused("without")
	s.awaitRefused("with-wrong")
	if !shared.ImageCache {
		return
	}

	// Now the image is in the cache, and that changes nothing for who may not
	// have it, whatever the pull policy.
	s.awaitCached(privateImage)
	before := pulls.Load()
	s.create(pull("cached-with", "right"))
	s.create(pull("cached-without"))
	always := pull("cached-without-always")
	always.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways
	s.create(always)
	s.awaitReady("cached-with")
	if n := pulls.Load() - before; n != 0 {
		t.Errorf("layers were pulled %d times that are in the cache", n)
	}
	s.awaitRefused("cached-without")
	s.awaitRefused("cached-without-always")
}

// awaitRefused waits until the pod's image was refused for want of a login.
func (s *space) awaitRefused(pod string) {
	s.Helper()
	s.awaitPod(pod, "its image is refused", func(p *corev1.Pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") {
				return nil
			}
		}
		return fmt.Errorf("its containers are %+v", p.Status.ContainerStatuses)
	})
	s.eventually(pod+": the event says why", func(ctx context.Context) error {
		events, err := shared.kube.CoreV1().Events(s.name).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var messages []string
		for _, e := range events.Items {
			if e.Reason == "Failed" && (strings.Contains(e.Message, "no basic auth credentials") || strings.Contains(e.Message, "401")) {
				return nil
			}
			messages = append(messages, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are %q", messages)
	})
}

// servePrivateRegistry runs, for the test, a registry that has the test's image
// for those who log in, and makes it the mirror of the host that pods name:
// cells know no other way to a registry of plain HTTP. It counts how often layers
// are read.
func servePrivateRegistry(s *space) (pulls *atomic.Int32) {
	s.Helper()
	node, err := shared.kube.CoreV1().Nodes().Get(s.Context(), localcluster.NodeName, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	var host string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			host = a.Address
		}
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		s.Fatal(err)
	}
	layers, err := images[testImage].Layers()
	if err != nil {
		s.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		s.Fatal(err)
	}
	pulls = &atomic.Int32{}
	store := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != registryUser || password != registryPass {
			w.Header().Set("WWW-Authenticate", `Basic realm="`+privateRegistry+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+layer.String()) {
			pulls.Add(1)
		}
		store.ServeHTTP(w, r)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	s.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
	to, err := name.ParseReference(listener.Addr().String()+"/kip-e2e:latest", name.Insecure)
	if err != nil {
		s.Fatal(err)
	}
	login := remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPass})
	if err := remote.Write(to, images[testImage], login, remote.WithContext(s.Context())); err != nil {
		s.Fatal(err)
	}

	path := filepath.Join(shared.Dir, "provider.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	const mirrors = "  registryMirrors:\n"
	changed := bytes.Replace(config, []byte(mirrors),
		fmt.Appendf(nil, "%s  - hosts: [%s]\n    endpoint: http://%s\n", mirrors, privateRegistry, listener.Addr()), 1)
	if bytes.Equal(changed, config) {
		s.Fatalf("%s does not say where mirrors are configured", path)
	}
	useProviderConfig(s, path, changed)
	s.Cleanup(func() { useProviderConfig(s, path, config) })
	return pulls
}

// useProviderConfig has Kip run with another provider.yaml.
func useProviderConfig(s *space, path string, config []byte) {
	s.Helper()
	if err := os.WriteFile(path, config, 0o600); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout) // the test's own has ended when it cleans up
	defer cancel()
	for _, component := range []string{localcluster.Kip, localcluster.ImageCache} {
		if component == localcluster.ImageCache && !shared.ImageCache {
			continue
		}
		if err := shared.Start(ctx, component); err != nil {
			s.Fatal(err)
		}
	}
}

// cellsConfigurer returns what has Kip run with one key more, or with none (""),
// below cells in provider.yaml. The test must run alone. Afterwards it is as before.
func (s *space) cellsConfigurer() (configure func(key string)) {
	s.Helper()
	path := filepath.Join(shared.Dir, "provider.yaml")
	without, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	const cells = "\ncells:\n"
	if !bytes.Contains(without, []byte(cells)) {
		s.Fatalf("%s says nothing of cells", path)
	}
	s.Cleanup(func() { useProviderConfig(s, path, without) })
	return func(key string) {
		s.Helper()
		with := cells
		if key != "" {
			with += "  " + key + "\n"
		}
		useProviderConfig(s, path, bytes.Replace(without, []byte(cells), []byte(with), 1))
	}
}

func (s *space) createPullSecret(secret, password string) {
	s.Helper()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{privateRegistry: map[string]string{
		"auth": base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + password)),
	}}})
	if err != nil {
		s.Fatal(err)
	}
	_, err = shared.kube.CoreV1().Secrets(s.name).Create(s.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secret}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: config},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
}
