package grants

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
)

const (
	host     = "registry.example.com"
	manifest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	missing  = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	diffID   = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

// registryServer has two repositories, one of which wants the login a:b.
func registryServer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/private/") && (user != "a" || password != "b"):
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/v2/broken/"):
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/v2/":
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/sha256:"):
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "100")
			w.Header().Set("Docker-Content-Digest", r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func pullSecret(t *testing.T, server, user, password string) *corev1.Secret {
	t.Helper()
	data, err := json.Marshal(map[string]any{"auths": map[string]any{server: map[string]string{"username": user, "password": password}}})
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: data}}
}

func TestGrant(t *testing.T) {
	keys, err := store.NewKeys(make([]byte, store.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	root := layer.Sum{1, 2, 3}
	cached := func(repository string, change func(*v1beta1.CachedImage)) *v1beta1.CachedImage {
		image := &v1beta1.CachedImage{
			ObjectMeta: metav1.ObjectMeta{Name: v1beta1.CachedImageName(repository, manifest)},
			Spec:       v1beta1.CachedImageSpec{Repository: repository, Digest: manifest, Architecture: "amd64"},
			Status: v1beta1.CachedImageStatus{
				Conditions: []metav1.Condition{{Type: v1beta1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1beta1.ReasonCached}},
				Layers:     []v1beta1.CachedLayer{{Digest: manifest, DiffID: diffID, Path: keys.Path(diffID), Size: 4096, Root: root.String()}},
			},
		}
		if change != nil {
			change(image)
		}
		return image
	}
	good := []layer.Layer{{Digest: manifest, DiffID: diffID, Path: keys.Path(diffID), Size: 4096, Root: root, Key: keys.Key(diffID)}}
	for name, tc := range map[string]struct {
		reason   string
		image    string
		manifest string
		cached   *v1beta1.CachedImage
		secrets  []*corev1.Secret
		noSecret error
		ecr      *gateway.RegistryLogin

		want   grant.Answer
		result string
	}{
		"Public": {
			reason: "anybody may have it", image: host + "/public/app:1", cached: cached(host+"/public/app", nil),
			want: grant.Answer{Layers: good}, result: "granted",
		},
		"Private": {
			reason: "the pod's own secret opens it, and the cell may need it later", image: host + "/private/app:1", cached: cached(host+"/private/app", nil),
			secrets: []*corev1.Secret{pullSecret(t, host, "a", "b")},
			want:    grant.Answer{Layers: good, Login: &grant.Login{Username: "a", Password: "b"}}, result: "granted",
		},
		"PrivateWithoutSecret": {
			reason: "it is in the cache because of another pod", image: host + "/private/app:1", cached: cached(host+"/private/app", nil),
			result: "refused",
		},
		"WrongSecret": {
			reason: "a login that the registry does not take", image: host + "/private/app:1", cached: cached(host+"/private/app", nil),
			secrets: []*corev1.Secret{pullSecret(t, host, "a", "c")}, result: "refused",
		},
		"SecretOfAnotherRegistry": {
			reason: "logins go where they belong", image: host + "/private/app:1", cached: cached(host+"/private/app", nil),
			secrets: []*corev1.Secret{pullSecret(t, "other.example.com", "a", "b")}, result: "refused",
		},
		"CloudsRegistry": {
			reason: "as on a node, a role does where there is no secret", image: host + "/private/app:1", cached: cached(host+"/private/app", nil),
			ecr:  &gateway.RegistryLogin{Username: "a", Password: "b"},
			want: grant.Answer{Layers: good, Login: &grant.Login{Username: "a", Password: "b"}}, result: "granted",
		},
		"ForeignDigest": {
			reason: "a repository that says yes to any digest has not put it into the cache", image: host + "/public/mine:1", cached: cached(host+"/private/app", nil),
			result: "absent",
		},
		"OtherDigest": {
			reason: "an image that is not there", image: host + "/public/app:1", manifest: missing, cached: cached(host+"/public/app", nil), result: "absent",
		},
		"NotReady": {
			reason: "not all of its layers are there", image: host + "/public/app:1", result: "absent",
			cached: cached(host+"/public/app", func(i *v1beta1.CachedImage) { i.Status.Conditions[0].Status = metav1.ConditionFalse }),
		},
		"Renamed": {
			reason: "an object under the name of another image", image: host + "/public/app:1", result: "absent",
			cached: cached(host+"/public/app", func(i *v1beta1.CachedImage) { i.Spec.Repository = host + "/private/app" }),
		},
		"OtherMaster": {
			reason: "files that were made with another key", image: host + "/public/app:1", result: "absent",
			cached: cached(host+"/public/app", func(i *v1beta1.CachedImage) { i.Status.Layers[0].Path = "v1/layers/00/00" }),
		},
		"BadRoot": {
			reason: "an object that somebody edited", image: host + "/public/app:1", result: "failed",
			cached: cached(host+"/public/app", func(i *v1beta1.CachedImage) { i.Status.Layers[0].Root = "xyz" }),
		},
		"NoDigest": {reason: "not a question", image: host + "/public/app:1", manifest: "latest", cached: cached(host+"/public/app", nil), result: "refused"},
		"NoImage":  {reason: "not a question", image: "NOT AN IMAGE", cached: cached(host+"/public/app", nil), result: "refused"},
		"Broken": {
			reason: "who does not say yes says no", image: host + "/broken/app:1", cached: cached(host+"/broken/app", nil), result: "failed",
		},
		"SecretsNotRead": {
			reason: "without the pod's secrets nobody knows what it may have", image: host + "/public/app:1", cached: cached(host+"/public/app", nil),
			noSecret: errors.New("timeout"), result: "failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			scheme := runtime.NewScheme()
			if err := v1beta1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			places, err := registry.NewPlaces([]registry.Mirror{{Hosts: []string{host}, Endpoint: registryServer(t)}})
			if err != nil {
				t.Fatal(err)
			}
			places.Outside = nowhere{}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
			registries := &gatewaytest.Registries{}
			if tc.ecr != nil {
				registries.Set(host, *tc.ecr)
			}
			s, err := New(Config{
				Images: fake.NewClientBuilder().WithScheme(scheme).WithObjects(tc.cached).Build(), Registries: registries, Places: places,
				PullSecrets: func(_ context.Context, of *corev1.Pod) ([]*corev1.Secret, error) {
					if of != pod {
						t.Errorf("asked for the secrets of %s", of.Name)
					}
					return tc.secrets, tc.noSecret
				},
				Keys:    func(context.Context) (*store.Keys, error) { return keys, nil },
				Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			q := grant.Question{Image: tc.image, Manifest: manifest}
			if tc.manifest != "" {
				q.Manifest = tc.manifest
			}
			got, err := s.Grant(t.Context(), pod, q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			for _, result := range []string{"granted", "absent", "refused", "failed"} {
				want := 0.0
				if result == tc.result {
					want = 1
				}
				if n := testutil.ToFloat64(s.answers.WithLabelValues(result)); n != want {
					t.Errorf("%s: %s was counted %v times", tc.reason, result, n)
				}
			}
		})
	}
}

// nowhere has no image.
type nowhere struct{}

func (nowhere) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody, Request: r}, nil
}
