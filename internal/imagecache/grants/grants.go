// Package grants decides what a cell may have from the image cache: the layers
// of an image of its own pod, if that pod may pull the image.
//
// Whether it may is asked of the registry, each time and with the pod's own pull
// secrets, so that nothing depends on who pulled the image before. What is in
// the cache is looked up under the repository that the pod names: a registry
// that somebody made can say yes to any digest, but there is no CachedImage of
// its repositories unless it has shown that it has the layers itself.
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
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
	Keys    func(ctx context.Context) (*store.Keys, error)
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Source implements gateway.ImageCache.
type Source struct {
	cfg     Config
	answers *prometheus.CounterVec
}

var _ gateway.ImageCache = (*Source)(nil)

// New makes a Source.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, answers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kip_image_cache_grants_total",
		Help: "Questions of cells for an image of their pod in the image cache, by answer (granted, absent, refused, failed).",
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
	layers, err := s.layers(ctx, registry.Name(ref.Context()), manifest.DigestStr())
	if err != nil {
		return answer, "failed", err
	}
	if len(layers) == 0 {
		return answer, "absent", nil
	}
	logins, err := s.logins(ctx, pod, ref.Context())
	if err != nil {
		return answer, "failed", err
	}
	login, err := s.cfg.Places.Ask(ctx, manifest, logins, func(at name.Reference, how ...remote.Option) error {
		_, err := remote.Head(at, how...)
		return err
	})
	switch {
	case registry.Refused(err):
		return answer, "refused", fmt.Errorf("the registry does not let the pod have it: %w", err)
	case err != nil:
		return answer, "failed", fmt.Errorf("asking the registry whether the pod may have it: %w", err)
	}
	answer.Layers = layers
	if login != nil && login.Username != "" {
		answer.Login = &grant.Login{Username: login.Username, Password: login.Password}
	}
	return answer, "granted", nil
}

// layers are those of an image in the cache, none if it is not there.
func (s *Source) layers(ctx context.Context, repository, digest string) ([]layer.Layer, error) {
	image := &v1beta1.CachedImage{}
	err := s.cfg.Images.Get(ctx, client.ObjectKey{Name: v1beta1.CachedImageName(repository, digest)}, image)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the image in the cache: %w", err)
	}
	if image.Spec.Repository != repository || image.Spec.Digest != digest || !meta.IsStatusConditionTrue(image.Status.Conditions, v1beta1.ConditionReady) {
		return nil, nil
	}
	keys, err := s.cfg.Keys(ctx)
	if err != nil {
		return nil, err
	}
	layers := make([]layer.Layer, 0, len(image.Status.Layers))
	for _, l := range image.Status.Layers {
		given := layer.Layer{Digest: l.Digest, DiffID: l.DiffID, Path: l.Path, Size: l.Size, Key: keys.Key(l.DiffID)}
		if err := given.Root.UnmarshalText([]byte(l.Root)); err != nil {
			return nil, fmt.Errorf("reading CachedImage %s: the root of a layer: %w", image.Name, err)
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
	if logins := registry.Logins(secrets, repository); len(logins) > 0 {
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
