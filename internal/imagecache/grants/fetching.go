package grants

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

const (
	// hold is how long a question waits for layers before it is answered with
	// what there is; the cell then asks again.
	hold = 3 * time.Second
	// lookEvery is how often an image that is awaited is looked at, by however
	// many cells.
	lookEvery = 250 * time.Millisecond
	// noticed is the time from when a pod has its node in which the controller
	// sees it and has written down that it fetches the image. Instances boot
	// longer than that as a rule; a standby cell does not.
	noticed = 5 * time.Second
)

// image is one of a repository.
type image struct{ repository, digest string }

// state is what the cache has of an image.
type state struct {
	layers []v1beta1.CachedLayer
	// coming says that more are being fetched.
	coming bool
	// known says that the controller has written down something of the image.
	known bool
}

func (s state) none() bool { return len(s.layers) == 0 && !s.coming }

// look reads what the cache has of an image.
func (s *Source) look(ctx context.Context, i image) (state, error) {
	cached := &v1beta1.CachedImage{}
	err := s.cfg.Images.Get(ctx, client.ObjectKey{Name: v1beta1.CachedImageName(i.repository, i.digest)}, cached)
	if apierrors.IsNotFound(err) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("looking for the image in the cache: %w", err)
	}
	if cached.Spec.Repository != i.repository || cached.Spec.Digest != i.digest {
		return state{known: true}, nil
	}
	by := cached.Status.FetchedBy
	switch {
	case meta.IsStatusConditionTrue(cached.Status.Conditions, v1beta1.ConditionReady):
		return state{layers: cached.Status.Layers, known: true}, nil
	case by != nil && time.Now().Before(by.Time):
		return state{layers: cached.Status.Layers, coming: true, known: true}, nil
	}
	// Between its creation and its first status nothing is said of it.
	return state{known: len(cached.Status.Conditions) > 0}, nil
}

// appearing returns what the cache has of an image. Where that is nothing because
// the controller has hardly had time to see the pod, it waits a moment for it.
func (s *Source) appearing(ctx context.Context, pod *corev1.Pod, i image, asked time.Time) (state, error) {
	there, err := s.look(ctx, i)
	if err != nil || there.known {
		return there, err
	}
	until := scheduled(pod).Add(noticed)
	if !time.Now().Before(until) {
		return there, nil
	}
	if !s.filled(ctx) {
		return there, nil // nobody waits for a controller that is away
	}
	there, err = s.await(ctx, i, earlier(until, asked.Add(s.hold)), func(now state) bool { return now.known })
	there.coming = there.coming || !there.known && time.Now().Before(until)
	return there, err
}

// filled says whether the controller is there. If that cannot be known, it is not.
func (s *Source) filled(ctx context.Context) bool {
	there, err := s.cfg.Filled(ctx)
	return err == nil && there
}

// arriving returns what the cache has of an image that is being fetched as soon as
// that is more layers than the cell has, or no more come.
func (s *Source) arriving(ctx context.Context, i image, there state, have int, asked time.Time) (state, error) {
	enough := func(now state) bool { return !now.coming || len(now.layers) > have }
	if !there.known || enough(there) {
		return there, nil
	}
	return s.await(ctx, i, asked.Add(s.hold), enough)
}

// await looks at an image until that is enough, or for so long.
func (s *Source) await(ctx context.Context, i image, until time.Time, enough func(state) bool) (state, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		there, err := s.looks.look(i, func() (state, error) {
			// Others wait for it, too.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			return s.look(ctx, i)
		})
		if err != nil || enough(there) || !time.Now().Before(until) {
			return there, err
		}
		select {
		case <-ctx.Done():
			return there, nil
		case <-tick.C:
		}
	}
}

// scheduled is when a pod got its node.
func scheduled(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// looks are the last ones at images that are awaited, so that many cells cost as
// many as one.
type looks struct {
	flight singleflight.Group

	mu   sync.Mutex
	last map[image]look
}

type look struct {
	at    time.Time
	state state
}

// look returns what was seen a moment ago, or looks. Who comes meanwhile waits.
func (l *looks) look(i image, see func() (state, error)) (state, error) {
	if seen, ok := l.recent(i); ok {
		return seen, nil
	}
	got, err, _ := l.flight.Do(i.repository+"@"+i.digest, func() (any, error) {
		seen, err := see()
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.last[i] = look{time.Now(), seen}
		}
		return seen, err
	})
	seen, _ := got.(state)
	return seen, err
}

func (l *looks) recent(i image) (state, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for of, last := range l.last {
		if time.Since(last.at) > lookEvery/2 {
			delete(l.last, of)
		}
	}
	last, ok := l.last[i]
	return last.state, ok
}
