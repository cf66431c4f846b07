package platforms

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/elotl/kip/v2/internal/registry"
)

const (
	// Patience is how long a pod waits for what a registry says of its image.
	Patience = 2 * time.Second

	// lookupTimeout bounds a lookup. An answer that comes after Patience is of
	// use to the next pod.
	lookupTimeout = 10 * time.Second

	// knownFor: a tag may be given to another image meanwhile.
	knownFor = 10 * time.Minute
	// unknownFor: a registry that was away comes back.
	unknownFor = time.Minute

	// maxImages bounds the memory used, at some 200 bytes each.
	maxImages = 4096

	// workers ask at the same time, waiting bounds what stands in line for
	// them. What finds no place in the line is not known for now.
	workers = 8
	waiting = 256
)

// Config is what a Resolver needs from outside.
type Config struct {
	Places  *registry.Places
	Clock   clock.PassiveClock
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Resolver answers from memory and asks registries in the background. It is
// safe for concurrent use.
type Resolver struct {
	cfg     Config
	queue   chan string
	lookups *prometheus.CounterVec

	mu    sync.Mutex
	known *lru.Cache // of *answer, by image
}

// answer is what is known of an image, and since when.
type answer struct {
	architectures []string // none: not known
	pending       bool
	since         time.Time
}

// New makes a Resolver that looks nothing up until Start is called.
func New(cfg Config) (*Resolver, error) {
	r := &Resolver{
		cfg: cfg, queue: make(chan string, waiting), known: lru.New(maxImages),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_image_lookups_total", Help: "Images whose architectures were asked for at a registry, by result (known, unknown).",
		}, []string{"result"}),
	}
	return r, cfg.Metrics.Register(r.lookups)
}

// Start looks images up until ctx ends.
func (r *Resolver) Start(ctx context.Context) error {
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case image := <-r.queue:
					r.lookUp(ctx, image)
				}
			}
		})
	}
	running.Wait()
	return nil
}

// Of returns the architectures for which all images of a pod are made, none if
// that is not known. Done is false while a registry is being asked: ask again
// in a moment. It does not block.
func (r *Resolver) Of(pod *corev1.Pod) (architectures []string, done bool) {
	var all [][]string
	done = true
	for _, image := range Images(pod) {
		a, d := r.of(image)
		all = append(all, a)
		done = done && d // all of them are asked for at once
	}
	if !done || len(all) == 0 {
		return nil, done
	}
	architectures = slices.Clone(all[0])
	for _, of := range all[1:] {
		architectures = slices.DeleteFunc(architectures, func(a string) bool { return !slices.Contains(of, a) })
	}
	return architectures, true
}

// Images are those that a pod starts with, each once.
func Images(pod *corev1.Pod) []string {
	var all []string
	add := func(image string) {
		if image != "" && !slices.Contains(all, image) {
			all = append(all, image)
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			add(list[i].Image)
		}
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil {
			add(v.Reference)
		}
	}
	return all
}

func (r *Resolver) of(image string) (architectures []string, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Clock.Now()
	if cached, ok := r.known.Get(image); ok {
		a := cached.(*answer)
		age := now.Sub(a.since)
		switch {
		case a.pending:
			return nil, age >= Patience
		case len(a.architectures) > 0 && age < knownFor, age < unknownFor:
			return a.architectures, true
		}
	}
	a := &answer{pending: true, since: now}
	select {
	case r.queue <- image:
	default:
		a.pending = false
	}
	r.known.Add(image, a)
	return nil, !a.pending
}

// lookUp asks for one image and remembers what came of it.
func (r *Resolver) lookUp(ctx context.Context, image string) {
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	architectures, err := r.ask(bounded, image)
	if ctx.Err() != nil {
		return
	}
	result := "known"
	if err != nil {
		result = "unknown"
		r.cfg.Logger.Debug("architectures of an image are not known", "image", image, "err", err)
	}
	r.lookups.WithLabelValues(result).Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known.Add(image, &answer{architectures: architectures, since: r.cfg.Clock.Now()})
}
