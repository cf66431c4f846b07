package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/platforms"
	"github.com/elotl/kip/v2/internal/registry"
	"github.com/elotl/kip/v2/internal/registry/pullsecret"
)

const (
	// lookAgain is how often the images of a pod that runs are looked at: a tag
	// may be given to another image, and a use is noted to within this.
	lookAgain = time.Hour
	// tryAgain, and twice as late each time, is when a pod is looked at again of
	// which an image could not be had: registries count questions.
	tryAgain       = 15 * time.Second
	tryAgainAtMost = 15 * time.Minute
	// lookSoon is when a pod is looked at again whose image is being made for
	// another one.
	lookSoon = 15 * time.Second
	// workers look at pods at the same time. Most ask a registry for a digest.
	workers = 32
	// converting is how many images are pulled at once, layer by layer: a core
	// each, and room for an unpacked layer.
	converting = 2
	// restFor is how long an image that could not be made is left alone.
	restFor = 2 * time.Minute
	// maxKnown bounds the memory for what indexes have in them, and for layers.
	maxKnown = 4096
)

// Config is what a Controller is made of.
type Config struct {
	// Client reads pods from memory and writes CachedImages; Live reads them from
	// the API server, as what was just written must be seen.
	Client client.Client
	Live   client.Reader
	// PullSecrets returns those of a pod's pull secrets that there are.
	PullSecrets func(ctx context.Context, pod *corev1.Pod) ([]*corev1.Secret, error)
	// Registries has logins to the cloud's own registries, for images of pods
	// without a pull secret: as a node has, and cells by way of Kip.
	Registries cloudprovider.RegistryAuthorizer
	Places     *registry.Places
	Share      *store.Share
	// Scratch is a directory with room for the largest layer, unpacked, twice.
	Scratch string
	// Architectures are those that images are converted for.
	Architectures []string
	// Keep are images that are in the cache without a pod that uses them.
	Keep []string
	// MaxBytes is what files on the share may take; 0 is any size. Unused is for
	// how long an image stays that no pod has.
	MaxBytes int64
	Unused   time.Duration
	Events   record.EventRecorder
	Clock    clock.WithTicker
	Metrics  prometheus.Registerer
	Logger   *slog.Logger
}

// Controller fills the cache and keeps it within bounds.
type Controller struct {
	cfg     Config
	metrics *metrics
	// slots are taken while an image is pulled.
	slots chan struct{}

	mu sync.Mutex
	// known are the images in what a tag named, []manifest by repository@digest.
	known *lru.Cache
	// sent has layers of late, []sent by digest.
	sent *lru.Cache
	// making has what is being made, CachedImages and layers, so that it is made
	// once.
	making map[string]chan struct{}
	// failed has CachedImages that could not be made a moment ago, and why, as
	// all pods with an image come at once and each would try it.
	failed map[string]failure

	// unreferenced are files of which nothing is known, and since when. Only the
	// sweep uses it.
	unreferenced map[string]time.Time
}

// New makes a Controller.
func New(cfg Config) (*Controller, error) {
	c := &Controller{
		cfg: cfg, slots: make(chan struct{}, converting), known: lru.New(maxKnown), sent: lru.New(maxKnown),
		making: map[string]chan struct{}{}, failed: map[string]failure{}, unreferenced: map[string]time.Time{},
	}
	var err error
	if c.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, err
	}
	return c, nil
}

// SetupWithManager adds the controller to the manager.
func (c *Controller) SetupWithManager(mgr ctrl.Manager) error {
	for _, run := range []func(context.Context){c.keep, c.sweepAlways, c.checkAlways} {
		if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error { run(ctx); return nil })); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	err := ctrl.NewControllerManagedBy(mgr).Named("image-cache").For(&corev1.Pod{}).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](tryAgain, tryAgainAtMost),
		}).Complete(c)
	if err != nil {
		return fmt.Errorf("adding the image cache's controller: %w", err)
	}
	return nil
}

// Reconcile implements reconcile.Reconciler: it sees to the images of a pod.
func (c *Controller) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	pod := &corev1.Pod{}
	if err := c.cfg.Client.Get(ctx, req.NamespacedName, pod); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return reconcile.Result{}, nil
	}
	secrets, err := c.cfg.PullSecrets(ctx, pod)
	if err != nil {
		return reconcile.Result{}, err
	}
	var failed []error
	again := lookAgain
	for _, image := range platforms.Images(pod) {
		err := c.ensure(ctx, image, secrets)
		switch {
		case err == nil:
		case errors.Is(err, errBeingMade):
			again = lookSoon
		case ctx.Err() != nil:
			return reconcile.Result{}, ctx.Err()
		case errors.Is(err, errNotCacheable):
			c.cfg.Events.Eventf(pod, corev1.EventTypeNormal, "ImageNotCacheable", "Image %s is pulled by each cell: %v", image, err)
		default:
			c.cfg.Events.Eventf(pod, corev1.EventTypeWarning, "ImageNotCached", "Image %s is not in the image cache yet, so cells pull it: %v", image, err)
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return reconcile.Result{}, errors.Join(failed...)
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// keep sees to the images that are to be kept.
func (c *Controller) keep(ctx context.Context) {
	ticker := c.cfg.Clock.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		for _, image := range c.cfg.Keep {
			if err := c.ensure(ctx, image, nil); err != nil && !errors.Is(err, errBeingMade) && ctx.Err() == nil {
				c.cfg.Logger.WarnContext(ctx, "an image that is to be kept in the cache is not there", "image", image, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// ensure sees to it that an image is in the cache, for each architecture, and
// notes its use.
func (c *Controller) ensure(ctx context.Context, image string, secrets []*corev1.Secret) error {
	ref, err := name.ParseReference(image)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotCacheable, err)
	}
	logins, err := c.logins(ctx, ref.Context(), secrets)
	if err != nil {
		return err
	}
	manifests, err := c.resolve(ctx, ref, logins)
	if err != nil {
		return err
	}
	for _, m := range manifests {
		if err := c.one(ctx, source{ref.Context(), logins}, m); err != nil {
			return err
		}
	}
	return nil
}

// logins are those with which a repository is asked.
func (c *Controller) logins(ctx context.Context, repository name.Repository, secrets []*corev1.Secret) ([]authn.AuthConfig, error) {
	if logins := pullsecret.Logins(secrets, repository); len(logins) > 0 {
		return logins, nil
	}
	login, err := c.cfg.Registries.RegistryLogin(ctx, registry.Host(repository))
	if err != nil {
		return nil, fmt.Errorf("asking for the registry's login: %w", err)
	}
	if login == nil {
		return nil, nil
	}
	return []authn.AuthConfig{{Username: login.Username, Password: login.Password}}, nil
}

// failure is what went wrong, and when.
type failure struct {
	err  error
	when time.Time
}

// rest returns what went wrong with an image a moment ago.
func (c *Controller) rest(object string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.failed[object]
	if ok && c.cfg.Clock.Now().Sub(f.when) < restFor {
		return f.err
	}
	delete(c.failed, object)
	return nil
}

func (c *Controller) noteFailure(object string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[object] = failure{err, c.cfg.Clock.Now()}
}

// take waits until nobody else makes the layer; done lets others.
func (c *Controller) take(ctx context.Context, layer string) (done func(), err error) {
	for {
		done, ended := c.tryTake(layer)
		if done != nil {
			return done, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryTake takes what has this name to make it, unless somebody else makes it:
// that has ended when ended is closed.
func (c *Controller) tryTake(made string) (done func(), ended <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if busy, ok := c.making[made]; ok {
		return nil, busy
	}
	end := make(chan struct{})
	c.making[made] = end
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.making, made)
		close(end)
	}, nil
}
