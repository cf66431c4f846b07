package controller

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fakeregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ggcrtypes "github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
)

// host is a registry at a name of its own, that a test reaches by a mirror. It
// counts the layers that it sends.
type host struct {
	*httptest.Server
	name string
	// private repositories want the login a:b.
	private map[string]bool
	// claims answers every HEAD with yes.
	claims bool
	// before is called before a layer is sent, if it is set.
	before func(digest string)

	mu      sync.Mutex
	blobs   map[string]int
	heads   int
	cut     bool
	trouble bool
}

func newHost(t *testing.T, hostName string) *host {
	t.Helper()
	h := &host{name: hostName, private: map[string]bool{}, blobs: map[string]int{}}
	backend := fakeregistry.New(fakeregistry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repository, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
		repository, _, _ = strings.Cut(repository, "/manifests/")
		if h.private[repository] {
			if user, password, _ := r.BasicAuth(); user != "a" || password != "b" {
				w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		h.mu.Lock()
		cut, trouble := h.cut, h.trouble
		layer := r.Method == http.MethodGet && strings.HasPrefix(what, "sha256:")
		if layer {
			h.blobs[what]++
		}
		if r.Method == http.MethodHead && what != "" {
			h.heads++
		}
		before := h.before
		h.mu.Unlock()
		if layer && before != nil {
			before(what)
		}
		switch {
		case trouble:
			w.WriteHeader(http.StatusInternalServerError)
		case h.claims && r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/blobs/"):
			w.Header().Set("Content-Length", "100")
		case cut && layer:
			backend.ServeHTTP(&cutWriter{w, 200}, r)
		default:
			backend.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// cutWriter hangs up after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}

func (h *host) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// sent is how often a layer was asked for.
func (h *host) sent(l v1.Layer) int {
	digest, err := l.Digest()
	if err != nil {
		panic(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blobs[digest.String()]
}

func (h *host) at(t *testing.T, path string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(h.URL, "http://") + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// push stores an image.
func (h *host) push(t *testing.T, path string, image v1.Image) {
	t.Helper()
	if err := remote.Write(h.at(t, path), image, remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: "a", Password: "b"}))); err != nil {
		t.Fatal(err)
	}
}

// layerOf is a layer with one file, or with these entries.
func layerOf(t *testing.T, content string, headers ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range append(headers, tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(content))}) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// world is a controller with all that is around it.
type world struct {
	*Controller
	api    client.Client
	clock  *clocktesting.FakeClock
	events *record.FakeRecorder
	share  string
	keys   *store.Keys

	// cloud is what the cloud gives a login for, and noCloud why it does not.
	cloud   string
	noCloud error

	mu      sync.Mutex
	secrets []*corev1.Secret
}

// RegistryLogin implements cloudprovider.RegistryAuthorizer.
func (w *world) RegistryLogin(_ context.Context, host string) (*cloudprovider.RegistryLogin, error) {
	if host != w.cloud {
		return nil, nil
	}
	return &cloudprovider.RegistryLogin{Username: "a", Password: "b"}, w.noCloud
}

func newWorld(t *testing.T, hosts ...*host) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := store.NewKeys(make([]byte, store.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		api:   fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.CachedImage{}).Build(),
		clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), share: t.TempDir(), keys: keys,
	}
	w.restart(t, hosts...)
	return w
}

// restart makes another controller, which knows nothing.
func (w *world) restart(t *testing.T, hosts ...*host) {
	t.Helper()
	var mirrors []registry.Mirror
	for _, h := range hosts {
		mirrors = append(mirrors, registry.Mirror{Hosts: []string{h.name}, Endpoint: h.URL})
	}
	places, err := registry.NewPlaces(mirrors)
	if err != nil {
		t.Fatal(err)
	}
	places.Outside = nowhere{}
	share, err := store.New(w.share, w.keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := share.Close(); err != nil {
			t.Error(err)
		}
	})
	w.events = record.NewFakeRecorder(100)
	w.Controller, err = New(Config{
		Client: w.api, Live: w.api, Registries: w, Places: places, Share: share, Scratch: t.TempDir(), Architectures: []string{"amd64"},
		PullSecrets: func(context.Context, *corev1.Pod) ([]*corev1.Secret, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.secrets, nil
		},
		Unused: 7 * 24 * time.Hour, Events: w.events, Clock: w.clock, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// nowhere is the world without a network.
type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.ErrClosedPipe }

// login makes the pull secrets the one that private repositories want.
func (w *world) login(t *testing.T, hostName string) {
	t.Helper()
	data, err := json.Marshal(map[string]any{"auths": map[string]any{hostName: map[string]string{"username": "a", "password": "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = []*corev1.Secret{{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: data}}}
}

// run makes a pod with these images and looks at it.
func (w *world) run(t *testing.T, podName string, images ...string) error {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: podName}}
	for _, image := range images {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "main", Image: image})
	}
	if err := w.api.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return w.look(t, podName)
}

func (w *world) look(t *testing.T, podName string) error {
	t.Helper()
	_, err := w.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: podName}})
	return err
}

// images are all that there are, by repository.
func (w *world) images(t *testing.T) map[string]v1beta1.CachedImage {
	t.Helper()
	var list v1beta1.CachedImageList
	if err := w.api.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	found := map[string]v1beta1.CachedImage{}
	for _, i := range list.Items {
		found[i.Spec.Repository] = i
	}
	return found
}

// event is the next one, empty if there is none.
func (w *world) event() string {
	select {
	case e := <-w.events.Events:
		return e
	default:
		return ""
	}
}

// staticLayer is a blob as it is.
type staticLayer struct{ content []byte }

func (l staticLayer) Digest() (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(l.content))
	return digest, err
}
func (l staticLayer) DiffID() (v1.Hash, error) { return l.Digest() }
func (l staticLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.content)), nil
}
func (l staticLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }
func (l staticLayer) Size() (int64, error)                 { return int64(len(l.content)), nil }
func (l staticLayer) MediaType() (ggcrtypes.MediaType, error) {
	return ggcrtypes.DockerConfigJSON, nil
}
