package platforms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/name"
	fakeregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/registry"
)

// host is a registry that counts the manifests it is asked for.
type host struct {
	*httptest.Server
	mu     sync.Mutex
	reads  []string
	broken bool
	held   chan struct{} // answers wait for it, if it is set
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{}
	backend := fakeregistry.New(fakeregistry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			h.reads = append(h.reads, r.URL.Path)
		}
		broken, held := h.broken, h.held
		h.mu.Unlock()
		if held != nil {
			select {
			case <-held:
			case <-r.Context().Done():
				return
			}
		}
		if broken {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *host) read() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.reads)
}

// push stores an image for the platforms ("linux/arm64"), as an index if there
// are several.
func (h *host) push(t *testing.T, path string, platforms ...string) v1.Hash {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(h.URL, "http://") + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	image := func(platform string) v1.Image {
		os, architecture, _ := strings.Cut(platform, "/")
		img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: os, Architecture: architecture})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	if len(platforms) == 1 {
		img := image(platforms[0])
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
		digest, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	var index v1.ImageIndex = empty.Index
	for _, p := range platforms {
		os, architecture, _ := strings.Cut(p, "/")
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image(p), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: architecture}},
		})
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// nowhere is the world without a network.
type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("unreachable")
}

// start runs a Resolver with its mirrors until the test ends. It reaches no
// registry but them.
func start(t *testing.T, mirrors ...registry.Mirror) (*Resolver, *clocktesting.FakeClock) {
	t.Helper()
	return startWith(t, nowhere{}, mirrors...)
}

func startWith(t *testing.T, outside http.RoundTripper, mirrors ...registry.Mirror) (*Resolver, *clocktesting.FakeClock) {
	t.Helper()
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	places, err := registry.NewPlaces(mirrors)
	if err != nil {
		t.Fatal(err)
	}
	places.Outside = outside
	r, err := New(Config{Places: places, Clock: clk, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r, clk
}

func pod(images ...string) *corev1.Pod {
	p := &corev1.Pod{}
	for i, image := range images {
		if i == 0 {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Image: image})
		} else {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Image: image})
		}
	}
	return p
}

// wait asks until there is an answer.
func wait(t *testing.T, r *Resolver, p *corev1.Pod) []string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		if got, done := r.Of(p); done {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatal("no answer")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestArchitectures(t *testing.T) {
	mirror, other := newHost(t), newHost(t)
	both := mirror.push(t, "library/both:1", "linux/amd64", "linux/arm64", "windows/amd64", "unknown/unknown")
	mirror.push(t, "team/arm:1", "linux/arm64")
	mirror.push(t, "team/amd:latest", "linux/amd64")
	mirror.push(t, "team/windows:1", "windows/amd64")
	mirror.push(t, "team/mainframe:1", "linux/s390x", "linux/ppc64le")
	other.push(t, "kept/apart/app:1", "linux/arm64", "linux/amd64")
	other.push(t, "only/here:1", "linux/arm64")
	r, _ := start(t,
		registry.Mirror{Hosts: []string{"quay.io"}, Endpoint: other.URL + "/v2/kept"},
		registry.Mirror{Hosts: []string{"_default"}, Endpoint: mirror.URL},
		registry.Mirror{Hosts: []string{"*.example.com"}, Endpoint: other.URL},
	)
	for name, tc := range map[string]struct {
		reason string
		images []string
		want   []string
	}{
		"index":                {"Docker Hub's short names are looked for where a cell looks", []string{"both:1"}, []string{"amd64", "arm64"}},
		"by digest":            {"of an index", []string{"both@" + both.String()}, []string{"amd64", "arm64"}},
		"tag and digest":       {"the digest decides", []string{"docker.io/library/both:9@" + both.String()}, []string{"amd64", "arm64"}},
		"one image":            {"its configuration says what it is made for", []string{"ghcr.io/team/arm:1"}, []string{"arm64"}},
		"no tag":               {"means latest", []string{"ghcr.io/team/amd"}, []string{"amd64"}},
		"all images":           {"a pod runs where all its images do", []string{"both:1", "ghcr.io/team/arm:1"}, []string{"arm64"}},
		"contradicting images": {"nothing is left", []string{"ghcr.io/team/amd", "ghcr.io/team/arm:1"}, nil},
		"one is not known":     {"then nothing is", []string{"both:1", "ghcr.io/team/missing:1"}, nil},
		"windows":              {"is not for cells", []string{"ghcr.io/team/windows:1"}, nil},
		"other machines":       {"neither", []string{"ghcr.io/team/mainframe:1"}, nil},
		"no name":              {"the kubelet will say it", []string{"UPPER CASE"}, nil},
		"mirror with a path":   {"is the whole path", []string{"quay.io/apart/app:1"}, []string{"amd64", "arm64"}},
		"second mirror":        {"is asked when the first lacks the image", []string{"x.example.com/only/here:1"}, []string{"arm64"}},
		"no image":             {"says nothing", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, wait(t, r, pod(tc.images...)), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestAnswersAreRemembered(t *testing.T) {
	h := newHost(t)
	h.push(t, "library/app:1", "linux/amd64", "linux/arm64")
	r, clk := start(t, registry.Mirror{Hosts: []string{"_default"}, Endpoint: h.URL})
	for range 10 {
		wait(t, r, pod("app:1"))
	}
	if n := len(h.read()); n != 1 {
		t.Fatalf("asked %d times, want once", n)
	}
	clk.Step(knownFor)
	if got := wait(t, r, pod("app:1")); len(got) != 2 || len(h.read()) != 2 {
		t.Errorf("after %s: %v, asked %d times; want it to be asked again", knownFor, got, len(h.read()))
	}
	// What was not found may come.
	wait(t, r, pod("later:1"))
	h.push(t, "library/later:1", "linux/arm64")
	if got := wait(t, r, pod("later:1")); len(got) != 0 {
		t.Errorf("got %v at once, want the registry to be left alone for %s", got, unknownFor)
	}
	clk.Step(unknownFor)
	if got := wait(t, r, pod("later:1")); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// TestSlowRegistryDelaysNoPodForLong: the pod starts without an answer, and a
// late answer is for the next one.
func TestSlowRegistryDelaysNoPodForLong(t *testing.T) {
	h := newHost(t)
	h.push(t, "library/app:1", "linux/arm64")
	h.held = make(chan struct{})
	r, clk := start(t, registry.Mirror{Hosts: []string{"_default"}, Endpoint: h.URL})
	if _, done := r.Of(pod("app:1")); done {
		t.Fatal("an answer without asking")
	}
	clk.Step(Patience - time.Millisecond)
	if _, done := r.Of(pod("app:1")); done {
		t.Error("given up too early")
	}
	clk.Step(time.Millisecond)
	if got, done := r.Of(pod("app:1")); !done || got != nil {
		t.Errorf("got %v, %t after %s; want: not known", got, done, Patience)
	}
	close(h.held)
	deadline := time.Now().Add(time.Minute)
	for {
		if got, _ := r.Of(pod("app:1")); len(got) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the late answer is lost")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestFullQueueIsNotKnown: more images at once than anybody has.
func TestFullQueueIsNotKnown(t *testing.T) {
	r, err := New(Config{Clock: clocktesting.NewFakePassiveClock(time.Now()), Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range waiting {
		if _, done := r.Of(pod(fmt.Sprintf("app:%d", i))); done {
			t.Fatalf("image %d is not asked for", i)
		}
	}
	if got, done := r.Of(pod("app:last")); !done || got != nil {
		t.Errorf("got %v, %t; want: not known", got, done)
	}
}

// TestInsideIsNotAsked: image names are somebody's input.
func TestInsideIsNotAsked(t *testing.T) {
	h := newHost(t)
	h.push(t, "library/app:1", "linux/arm64")
	r, _ := startWith(t, &http.Transport{DialContext: (&net.Dialer{Control: registry.RefuseInside}).DialContext})
	local := strings.TrimPrefix(h.URL, "http://")
	_, port, _ := strings.Cut(local, ":")
	for _, image := range []string{local + "/library/app:1", "localhost:" + port + "/library/app:1", "169.254.169.254/latest/meta-data:1"} {
		if got := wait(t, r, pod(image)); got != nil {
			t.Errorf("%s: got %v", image, got)
		}
	}
	if n := len(h.read()); n != 0 {
		t.Errorf("a listener of this machine was asked %d times", n)
	}
	for _, address := range []string{"127.0.0.1:443", "[::1]:443", "169.254.169.254:443", "[fe80::1]:443", "0.0.0.0:443", "[::ffff:127.0.0.1]:443"} {
		if registry.RefuseInside("tcp", address, nil) == nil {
			t.Errorf("%s may be dialled", address)
		}
	}
	for _, address := range []string{"10.1.2.3:443", "52.1.2.3:443"} {
		if err := registry.RefuseInside("tcp", address, nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestBrokenMirrorIsPassedOver(t *testing.T) {
	broken, good := newHost(t), newHost(t)
	broken.broken = true
	good.push(t, "library/app:1", "linux/arm64")
	r, _ := start(t, registry.Mirror{Hosts: []string{"_default"}, Endpoint: broken.URL}, registry.Mirror{Hosts: []string{"_default"}, Endpoint: good.URL})
	if got := wait(t, r, pod("app:1")); !slices.Equal(got, []string{"arm64"}) {
		t.Errorf("got %v", got)
	}
}
