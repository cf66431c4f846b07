// Package grants decides what a cell may have from the image cache: the layers
// of an image of its own pod, if that pod may pull the image.
//
// Whether it may is asked of the registry, each time and with the pod's own pull
// secrets, so that nothing depends on who pulled the image before. What is in
// the cache is looked up under the repository that the pod names: a registry
// that somebody made can say yes to any digest, but there is no CachedImage of
// its repositories unless it has shown that it has the layers itself.
//
// Of an image that is just being fetched a cell is granted the layers that have
// come. It asks again for the others, and Kip answers when there are some: so
// cells that start together have the image pulled once, by the controller, and
// not by each of them. How long that may take the controller has written down.
//
// A cell that gets no layers pulls the image. So every failure ends there, and
// none is an error.
package grants

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
	"github.com/elotl/kip/v2/internal/registry/pullsecret"
)

// patience is how long a registry has for its answer. A cell waits for it before
// it begins to pull.
const patience = 5 * time.Second

// Config is what a Source is made of.
type Config struct {
	// Images reads CachedImages.
	Images client.Reader
	// PullSecrets returns those of a pod's pull secrets that there are.
	PullSecrets func(ctx context.Context, pod *corev1.Pod) ([]*corev1.Secret, error)
	// Registries has logins for those who have no pull secret.
	Registries gateway.Registries
	Places     *registry.Places
	// Keys are those of the cache's files.
	Keys func(ctx context.Context) (*store.Keys, error)
	// Filled tells whether the controller that fills the cache lives.
	Filled  func(ctx context.Context) (bool, error)
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Source implements gateway.ImageCache.
type Source struct {
	cfg     Config
	answers *prometheus.CounterVec
	recent  recent
	looks   looks
	hold    time.Duration
}

var _ gateway.ImageCache = (*Source)(nil)

// New makes a Source.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, hold: hold, recent: recent{logins: map[allowed]remembered{}}, looks: looks{last: map[image]look{}}, answers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kip_image_cache_grants_total",
		Help: "Questions of cells for an image of their pod in the image cache, by answer (granted, coming, absent, refused, failed).",
	}, []string{"result"})}
	if err := cfg.Metrics.Register(s.answers); err != nil {
		return nil, fmt.Errorf("registering the image cache's metrics: %w", err)
	}
	return s, nil
}

// Grant implements gateway.ImageCache.
func (s *Source) Grant(ctx context.Context, pod *corev1.Pod, q grant.Question) (grant.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, result, err := s.grant(ctx, pod, q)
	s.answers.WithLabelValues(result).Inc()
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "an image is not given from the image cache", "pod", pod.Namespace+"/"+pod.Name, "image", q.Image, "err", err)
		return grant.Answer{}, nil
	}
	return answer, nil
}

func (s *Source) grant(ctx context.Context, pod *corev1.Pod, q grant.Question) (answer grant.Answer, result string, err error) {
	ref, err := name.ParseReference(q.Image)
	if err != nil {
		return answer, "refused", err
	}
	manifest, err := name.NewDigest(ref.Context().Name() + "@" + q.Manifest)
	if err != nil {
		return answer, "refused", err
	}
	asked := time.Now()
	image := image{registry.Name(ref.Context()), manifest.DigestStr()}
	there, err := s.appearing(ctx, pod, image, asked)
	if err != nil {
		return answer, "failed", err
	}
	if there.none() {
		return answer, "absent", nil
	}
	login, result, err := s.mayPull(ctx, pod, manifest)
	if err != nil {
		return answer, result, err
	}
	if there, err = s.arriving(ctx, image, there, q.Have, asked); err != nil {
		return answer, "failed", err
	}
	if answer.Layers, err = s.layers(ctx, there.layers); err != nil {
		return answer, "failed", err
	}
	answer.Coming = there.coming && len(answer.Layers) == len(there.layers)
	switch {
	case answer.Coming:
		result = "coming"
	case len(answer.Layers) == 0:
		return answer, "absent", nil
	default:
		result = "granted"
	}
	if login != nil && login.Username != "" {
		answer.Login = &grant.Login{Username: login.Username, Password: login.Password}
	}
	return answer, result, nil
}

// mayPull returns the login with which the pod may pull an image, nil if it needs
// none. It is an error if it may not, or nobody can say.
func (s *Source) mayPull(ctx context.Context, pod *corev1.Pod, manifest name.Digest) (login *authn.AuthConfig, result string, err error) {
	key := allowed{pod.UID, manifest.String()}
	if known, ok := s.recent.get(key); ok {
		return known, "", nil
	}
	logins, err := s.logins(ctx, pod, manifest.Context())
	if err != nil {
		return nil, "failed", err
	}
	login, err = s.cfg.Places.Ask(ctx, manifest, logins, func(at name.Reference, how ...remote.Option) error {
		_, err := remote.Head(at, how...)
		return err
	})
	switch {
	case registry.Refused(err):
		return nil, "refused", fmt.Errorf("the registry does not let the pod have it: %w", err)
	case err != nil:
		return nil, "failed", fmt.Errorf("asking the registry whether the pod may have it: %w", err)
	}
	s.recent.add(key, login)
	return login, "", nil
}

// layers are what a cell needs of layers in the cache, none if it cannot have
// them.
func (s *Source) layers(ctx context.Context, cached []v1beta1.CachedLayer) ([]layer.Layer, error) {
	if len(cached) == 0 {
		return nil, nil
	}
	keys, err := s.cfg.Keys(ctx)
	if err != nil {
		return nil, err
	}
	layers := make([]layer.Layer, 0, len(cached))
	for _, l := range cached {
		given := layer.Layer{Digest: l.Digest, DiffID: l.DiffID, Path: l.Path, Size: l.Size, Key: keys.Key(l.DiffID)}
		if err := given.Root.UnmarshalText([]byte(l.Root)); err != nil {
			return nil, fmt.Errorf("reading the root of layer %s: %w", l.Digest, err)
		}
		if keys.Path(l.DiffID) != l.Path {
			// Of another version of Kip, or another master key: its key is not
			// to be had any more.
			return nil, nil
		}
		layers = append(layers, given)
	}
	return layers, nil
}

// logins are the pod's for a repository. As on a node, the cloud's own registry
// gives one to pods that have none.
func (s *Source) logins(ctx context.Context, pod *corev1.Pod, repository name.Repository) ([]authn.AuthConfig, error) {
	secrets, err := s.cfg.PullSecrets(ctx, pod)
	if err != nil {
		return nil, err
	}
	if logins := pullsecret.Logins(secrets, repository); len(logins) > 0 {
		return logins, nil
	}
	login, err := s.cfg.Registries.Login(ctx, pod, registry.Host(repository))
	if err != nil {
		return nil, fmt.Errorf("asking for the registry's login: %w", err)
	}
	if login == nil {
		return nil, nil
	}
	return []authn.AuthConfig{{Username: login.Username, Password: login.Password}}, nil
}
