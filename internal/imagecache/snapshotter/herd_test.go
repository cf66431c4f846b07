package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	fakeregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcrtypes "github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
	"github.com/elotl/kip/v2/internal/imagecache/controller"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/grants"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	sharestore "github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
)

const (
	herdSize  = 50
	herdImage = "registry.example.com/team/app:1"
)

// herd is a registry, the image cache's controller, Kip's side of the grants, and
// an image that nobody has yet.
type herd struct {
	api    client.Client
	fill   *controller.Controller
	grants *grants.Source

	question grant.Question
	layers   []v1.Layer
	// hold keeps the registry from sending a layer but the first.
	hold chan struct{}

	mu   sync.Mutex
	sent map[string]int
	// broken makes the registry answer with errors from then on.
	broken bool
}

func newHerd(t *testing.T) *herd {
	t.Helper()
	h := &herd{hold: make(chan struct{}), sent: map[string]int{}}
	var manifests []mutate.Addendum
	for range 3 {
		l, err := random.Layer(200_000, ggcrtypes.DockerLayer)
		if err != nil {
			t.Fatal(err)
		}
		h.layers = append(h.layers, l)
		manifests = append(manifests, mutate.Addendum{Layer: l})
	}
	image, err := mutate.Append(empty.Image, manifests...)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, platform(t, image))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	h.question = grant.Question{Image: herdImage, Manifest: manifest.String()}
	places := h.serve(t, image)

	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1beta1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	h.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.CachedImage{}).Build()
	keys, err := sharestore.NewKeys(make([]byte, sharestore.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	share, err := sharestore.New(t.TempDir(), keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = share.Close() })
	noSecrets := func(context.Context, *corev1.Pod) ([]*corev1.Secret, error) { return nil, nil }
	h.fill, err = controller.New(controller.Config{
		Client: h.api, Live: h.api, Registries: noLogins{}, Places: places, Share: share, Scratch: t.TempDir(), Architectures: []string{"amd64"}, PullSecrets: noSecrets,
		Unused: time.Hour, Events: record.NewFakeRecorder(1000), Clock: clock.RealClock{}, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.grants, err = grants.New(grants.Config{
		Images: h.api, PullSecrets: noSecrets, Registries: &gatewaytest.Registries{}, Places: places,
		Keys:    func(context.Context) (*sharestore.Keys, error) { return keys, nil },
		Filled:  func(context.Context) (bool, error) { return true, nil },
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// noLogins is no cloud with registries of its own.
type noLogins struct{}

func (noLogins) RegistryLogin(context.Context, string) (*cloudprovider.RegistryLogin, error) {
	return nil, nil
}

func platform(t *testing.T, image v1.Image) *v1.ConfigFile {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	return config
}

// serve runs the registry.
func (h *herd) serve(t *testing.T, image v1.Image) *registry.Places {
	t.Helper()
	first, err := h.layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	backend := fakeregistry.New(fakeregistry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, blob, _ := strings.Cut(r.URL.Path, "/blobs/")
		if r.Method == http.MethodGet && blob != "" && blob != config.String() {
			if blob != first.String() {
				<-h.hold
			}
			h.mu.Lock()
			h.sent[blob]++
			broken := h.broken
			h.mu.Unlock()
			if broken {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	places, err := registry.NewPlaces([]registry.Mirror{{Hosts: []string{"registry.example.com"}, Endpoint: server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	return places
}

// pod has just been given its node. On this machine that stays so.
func (h *herd) pod(n int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("web-", n), UID: types.UID(fmt.Sprint(n)), CreationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: herdImage}}},
	}
}

// see is what the controller does when it sees a pod.
func (h *herd) see(ctx context.Context, pod *corev1.Pod) error {
	if err := h.api.Create(ctx, pod); err != nil {
		return err
	}
	_, err := h.fill.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
	return err
}

// cellOf is the snapshotter of the cell of a pod.
func (h *herd) cellOf(pod *corev1.Pod, reports *[]grant.Report) *Snapshotter {
	return &Snapshotter{
		cfg: Config{
			Grants: podGrants{h.grants, pod}, Logger: slog.New(slog.DiscardHandler),
			Report: func(r grant.Report) { *reports = append(*reports, r) },
		},
		answers: answers{last: map[grant.Question]*answer{}},
	}
}

// podGrants asks Kip as the cell of a pod.
type podGrants struct {
	source *grants.Source
	pod    *corev1.Pod
}

func (g podGrants) Grant(ctx context.Context, q grant.Question) (grant.Answer, error) {
	return g.source.Grant(ctx, g.pod, q)
}

func (h *herd) wants(t *testing.T, i int) func(layer.Layer) bool {
	t.Helper()
	digest, err := h.layers[i].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return func(l layer.Layer) bool { return l.Digest == digest.String() }
}

// TestHerd: fifty cells start an image that nobody has. The registry sends each of
// its layers once, and each cell has all of them from the cache: the first as soon
// as it has come, while the others are still awaited.
func TestHerd(t *testing.T) {
	h := newHerd(t)
	var wants []func(layer.Layer) bool
	for i := range h.layers {
		wants = append(wants, h.wants(t, i))
	}
	var haveFirst, all sync.WaitGroup
	haveFirst.Add(herdSize)
	reports := make([][]grant.Report, herdSize)
	for n := range herdSize {
		pod := h.pod(n)
		all.Go(func() {
			// The cell may ask before the controller has seen the pod, and after.
			cell := h.cellOf(pod, &reports[n])
			for i, want := range wants {
				_, ok := cell.granted(t.Context(), h.question, want)
				if !ok {
					t.Errorf("cell %d pulls layer %d itself", n, i)
				}
				if i == 0 {
					haveFirst.Done()
				}
			}
		})
		all.Go(func() {
			if err := h.see(t.Context(), pod); err != nil {
				t.Error(err)
			}
		})
	}
	haveFirst.Wait()
	close(h.hold)
	all.Wait()
	if len(h.sent) != len(h.layers) {
		t.Errorf("the registry sent %d layers, want %d", len(h.sent), len(h.layers))
	}
	for digest, n := range h.sent {
		if n != 1 {
			t.Errorf("layer %s was sent %d times", digest, n)
		}
	}
	if all := slices.Concat(reports...); len(all) > 0 {
		t.Errorf("reports: %v", all)
	}
}

// TestHerdInVain: the registry breaks in the middle of it. The cells go on with the
// layer that came and pull the others, at once, and say so.
func TestHerdInVain(t *testing.T) {
	h := newHerd(t)
	first, second := h.wants(t, 0), h.wants(t, 1)
	var haveFirst, all sync.WaitGroup
	const size = 5
	haveFirst.Add(size)
	reports := make([][]grant.Report, size)
	for n := range size {
		pod := h.pod(n)
		all.Go(func() {
			cell := h.cellOf(pod, &reports[n])
			if _, ok := cell.granted(t.Context(), h.question, first); !ok {
				t.Errorf("cell %d pulls the layer that there is", n)
			}
			haveFirst.Done()
			if _, ok := cell.granted(t.Context(), h.question, second); ok {
				t.Errorf("cell %d has a layer from nowhere", n)
			}
		})
	}
	failed := make(chan error, 1)
	go func() { failed <- h.see(t.Context(), h.pod(0)) }()
	haveFirst.Wait()
	h.mu.Lock()
	h.broken = true
	h.mu.Unlock()
	close(h.hold)
	if err := <-failed; err == nil {
		t.Error("the controller had the image from a broken registry")
	}
	all.Wait()
	for n, got := range reports {
		if len(got) != 1 || got[0].Reason != grant.NotCached {
			t.Errorf("cell %d reports %v", n, got)
		}
	}
}

// scripted answers what it is told to, in turn, and then nothing.
type scripted struct {
	mu      sync.Mutex
	answers []grant.Answer
	asked   []grant.Question
}

func (s *scripted) Grant(_ context.Context, q grant.Question) (grant.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, q)
	if len(s.answers) == 0 {
		return grant.Answer{}, errors.New("no connection")
	}
	next := s.answers[0]
	s.answers = s.answers[1:]
	return next, nil
}

// TestAwaitedLayers: what a cell does with Kip's answers, one after the other.
func TestAwaitedLayers(t *testing.T) {
	one, two := layer.Layer{Digest: "sha256:1"}, layer.Layer{Digest: "sha256:2"}
	for name, tc := range map[string]struct {
		reason  string
		answers []grant.Answer
		// have are the numbers of layers with which Kip was asked.
		have    []int
		granted []bool
		reports []string
	}{
		"There": {
			reason: "all of it is there, and Kip is asked once", answers: []grant.Answer{{Layers: []layer.Layer{one, two}}},
			have: []int{0}, granted: []bool{true, true},
		},
		"Comes": {
			reason:  "nothing is there yet, then one layer, then both",
			answers: []grant.Answer{{Coming: true}, {Layers: []layer.Layer{one}, Coming: true}, {Layers: []layer.Layer{one, two}}},
			have:    []int{0, 0, 1}, granted: []bool{true, true},
		},
		"DoesNotCome": {
			reason: "it does not get there", answers: []grant.Answer{{Layers: []layer.Layer{one}, Coming: true}, {}},
			have: []int{0, 1}, granted: []bool{true, false}, reports: []string{grant.NotCached},
		},
		"KipGoes": {
			reason: "nobody says any more what comes", answers: []grant.Answer{{Layers: []layer.Layer{one}, Coming: true}},
			have: []int{0, 1}, granted: []bool{true, false}, reports: []string{grant.Unanswered},
		},
		"OlderKip": {
			reason: "one that knows of no waiting", answers: []grant.Answer{{}}, have: []int{0}, granted: []bool{false, false}, reports: []string{grant.NotCached},
		},
	} {
		t.Run(name, func(t *testing.T) {
			kip := &scripted{answers: tc.answers}
			var reports []string
			s := &Snapshotter{
				cfg: Config{
					Grants: kip, Logger: slog.New(slog.DiscardHandler),
					Report: func(r grant.Report) { reports = append(reports, r.Reason) },
				},
				answers: answers{last: map[grant.Question]*answer{}},
			}
			var granted []bool
			for _, want := range []layer.Layer{one, two} {
				_, ok := s.granted(t.Context(), grant.Question{Image: "a", Manifest: "b"}, func(l layer.Layer) bool { return l.Digest == want.Digest })
				granted = append(granted, ok)
			}
			var have []int
			for _, q := range kip.asked {
				have = append(have, q.Have)
			}
			if !slices.Equal(granted, tc.granted) || !slices.Equal(have, tc.have) || !slices.Equal(reports, tc.reports) {
				t.Errorf("%s: granted %v, asked with %v, reported %q", tc.reason, granted, have, reports)
			}
		})
	}
}
