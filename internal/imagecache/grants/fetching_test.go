package grants

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
)

// asking is a Source with what is around it.
type asking struct {
	*Source
	api  client.Client
	keys *store.Keys
	// heads counts questions to the registry whether somebody may pull.
	heads atomic.Int32
	// filled is what is known of the controller, and looked whether anybody asked.
	filled  func() (bool, error)
	secrets []*corev1.Secret
}

func newAsking(t *testing.T) *asking {
	t.Helper()
	keys, err := store.NewKeys(make([]byte, store.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	a := &asking{
		api: fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.CachedImage{}).Build(), keys: keys,
		filled: func() (bool, error) { return true, nil },
	}
	backend, err := url.Parse(registryServer(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(backend)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			a.heads.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	places, err := registry.NewPlaces([]registry.Mirror{{Hosts: []string{host}, Endpoint: server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	places.Outside = nowhere{}
	a.Source, err = New(Config{
		Images: a.api, Registries: &gatewaytest.Registries{}, Places: places,
		PullSecrets: func(context.Context, *corev1.Pod) ([]*corev1.Secret, error) { return a.secrets, nil },
		Keys:        func(context.Context) (*store.Keys, error) { return keys, nil },
		Filled:      func(context.Context) (bool, error) { return a.filled() },
		Metrics:     prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const twoLayers = 2

// diffIDs of the layers of images of these tests.
func diffIDOf(n int) string { return "sha256:" + strings.Repeat(string(rune('1'+n)), 64) }

// write writes down what the controller would: so many layers, and until when
// cells wait for the others.
func (a *asking) write(t *testing.T, repository string, layers int, by time.Time) {
	t.Helper()
	cached := &v1beta1.CachedImage{
		ObjectMeta: metav1.ObjectMeta{Name: v1beta1.CachedImageName(repository, manifest)},
		Spec:       v1beta1.CachedImageSpec{Repository: repository, Digest: manifest, Architecture: "amd64"},
	}
	if err := a.api.Create(t.Context(), cached); client.IgnoreAlreadyExists(err) != nil {
		t.Error(err)
	}
	if err := a.api.Get(t.Context(), client.ObjectKeyFromObject(cached), cached); err != nil {
		t.Error(err)
	}
	cached.Status = v1beta1.CachedImageStatus{}
	ready := metav1.Condition{Type: v1beta1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1beta1.ReasonFetching}
	switch {
	case !by.IsZero():
		cached.Status.FetchedBy = &metav1.Time{Time: by}
	case layers == twoLayers:
		ready.Status, ready.Reason = metav1.ConditionTrue, v1beta1.ReasonCached
	default:
		ready.Reason = v1beta1.ReasonNotFetched
	}
	for n := range layers {
		cached.Status.Layers = append(cached.Status.Layers, v1beta1.CachedLayer{Digest: diffIDOf(n), DiffID: diffIDOf(n), Path: a.keys.Path(diffIDOf(n)), Size: 4096, Root: layer.Sum{}.String()})
	}
	cached.Status.Conditions = []metav1.Condition{ready}
	if err := a.api.Status().Update(t.Context(), cached); err != nil {
		t.Error(err)
	}
}

// TestGrantOfWhatComes: an image that is being fetched.
func TestGrantOfWhatComes(t *testing.T) {
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	justNow, longAgo := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	app, private := host+"/public/app", host+"/private/app"
	for name, tc := range map[string]struct {
		reason string
		// before is what is written down when the cell asks, and after what is
		// then.
		before, after func(t *testing.T, a *asking)
		filled        func() (bool, error)
		scheduled     time.Time
		image         string
		have          int

		layers int
		coming bool
		// inVain is set where the question waits as long as one does.
		inVain bool
	}{
		"SomeAreThere": {
			reason: "they are mounted while the others come",
			before: func(t *testing.T, a *asking) { a.write(t, app, 1, soon) }, layers: 1, coming: true,
		},
		"AnotherComes": {
			reason: "the question waits for it", have: 1,
			before: func(t *testing.T, a *asking) { a.write(t, app, 1, soon) },
			after:  func(t *testing.T, a *asking) { a.write(t, app, 2, time.Time{}) }, layers: 2,
		},
		"NoneComesForNow": {
			reason: "the cell is to ask again", have: 1,
			before: func(t *testing.T, a *asking) { a.write(t, app, 1, soon) }, layers: 1, coming: true, inVain: true,
		},
		"NoneComesAnyMore": {
			reason: "it is said at once", have: 1,
			before: func(t *testing.T, a *asking) { a.write(t, app, 1, soon) },
			after:  func(t *testing.T, a *asking) { a.write(t, app, 1, time.Time{}) },
		},
		"TooLate": {
			reason: "the controller has died, or is slower than a pull",
			before: func(t *testing.T, a *asking) { a.write(t, app, 1, past) },
		},
		"JustScheduled": {
			reason: "the controller has not seen the pod yet", scheduled: justNow,
			after: func(t *testing.T, a *asking) { a.write(t, app, 2, time.Time{}) }, layers: 2,
		},
		"JustScheduledAndNothingYet": {reason: "nor in a while", scheduled: justNow, coming: true, inVain: true},
		"ScheduledLongAgo": {
			reason: "it would have seen it", scheduled: longAgo,
			filled: func() (bool, error) { return false, errors.New("must not be asked") },
		},
		"NobodyFills":    {reason: "there is nobody to wait for", scheduled: justNow, filled: func() (bool, error) { return false, nil }},
		"PerhapsNobody":  {reason: "who cannot be seen is not waited for", scheduled: justNow, filled: func() (bool, error) { return false, errors.New("timeout") }},
		"CouldNotBeHad":  {reason: "the controller has tried", scheduled: justNow, before: func(t *testing.T, a *asking) { a.write(t, app, 0, time.Time{}) }},
		"PrivateFetched": {reason: "for another pod", image: private, before: func(t *testing.T, a *asking) { a.write(t, private, 1, soon) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAsking(t)
			if a.hold = patience; tc.inVain {
				a.hold = 2 * lookEvery
			}
			if tc.filled != nil {
				a.filled = tc.filled
			}
			if tc.before != nil {
				tc.before(t, a)
			}
			if tc.image == "" {
				tc.image = app
			}
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
				Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(tc.scheduled)}}},
			}
			answers := make(chan grant.Answer)
			go func() {
				got, err := a.Grant(t.Context(), pod, grant.Question{Image: tc.image + ":1", Manifest: manifest, Have: tc.have})
				if err != nil {
					t.Error(err)
				}
				answers <- got
			}()
			if tc.after != nil {
				time.Sleep(2 * lookEvery)
				tc.after(t, a)
			}
			got := <-answers
			if len(got.Layers) != tc.layers || got.Coming != tc.coming {
				t.Errorf("%s: %d layers, more coming: %t", tc.reason, len(got.Layers), got.Coming)
			}
		})
	}
}

// TestAskedAgain: the registry is asked once for a pod that asks again and again,
// and once more for each other pod.
func TestAskedAgain(t *testing.T) {
	a := newAsking(t)
	repository := host + "/private/app"
	a.write(t, repository, 1, time.Now().Add(time.Hour))
	q := grant.Question{Image: repository + ":1", Manifest: manifest}
	ask := func(uid types.UID) grant.Answer {
		t.Helper()
		got, err := a.Grant(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: uid}}, q)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	a.secrets = []*corev1.Secret{pullSecret(t, host, "a", "b")}
	first := ask("one")
	heads := a.heads.Load()
	if diff := cmp.Diff(first, ask("one")); diff != "" || len(first.Layers) != 1 || first.Login == nil {
		t.Errorf("asked again, it gets another answer (-first +second):\n%s", diff)
	}
	if n := a.heads.Load(); n != heads {
		t.Errorf("the registry was asked again for the same pod")
	}
	a.secrets = nil
	if got := ask("two"); len(got.Layers) > 0 || got.Coming || a.heads.Load() == heads {
		t.Errorf("another pod, without the secret, is answered %+v", got)
	}
}
