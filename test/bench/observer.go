package main

import (
	"context"
	"fmt"
	"regexp"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// seen is when a watch told of a pod's news for the first time.
type seen struct {
	bound   time.Time // it has a node
	running time.Time // its status says that its container runs
	ready   time.Time
	// pulled is said by the kubelet: at once where the image was there, then
	// pull is 0.
	pulled bool
	pull   time.Duration
}

// observer watches the measured pods and their events.
type observer struct {
	mu   sync.Mutex
	pods map[types.UID]*seen
	// news is closed and replaced at every change.
	news chan struct{}
}

// observe begins to watch. The watch ends with the context; wait returns then.
func (b *bench) observe(ctx context.Context) (o *observer, wait func(), err error) {
	o = &observer{pods: map[types.UID]*seen{}, news: make(chan struct{})}
	factory := informers.NewSharedInformerFactoryWithOptions(b.kube, 0, informers.WithNamespace(namespace))
	pods, events := factory.Core().V1().Pods().Informer(), factory.Core().V1().Events().Informer()
	_, err = pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { o.pod(obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { o.pod(obj.(*corev1.Pod)) },
	})
	if err != nil {
		return nil, nil, err
	}
	_, err = events.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) { o.event(obj.(*corev1.Event)) }})
	if err != nil {
		return nil, nil, err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced, events.HasSynced) {
		return nil, nil, ctx.Err()
	}
	return o, factory.Shutdown, nil
}

func (o *observer) pod(pod *corev1.Pod) {
	o.update(pod.UID, func(s *seen, now time.Time) {
		first := func(t *time.Time, is bool) {
			if is && t.IsZero() {
				*t = now
			}
		}
		first(&s.bound, pod.Spec.NodeName != "")
		for _, c := range pod.Status.ContainerStatuses {
			first(&s.running, c.State.Running != nil)
		}
		for _, c := range pod.Status.Conditions {
			first(&s.ready, c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue)
		}
	})
}

// pulledIn finds the time in the kubelet's words: "Successfully pulled image
// … in 85ms (85ms including waiting)".
var pulledIn = regexp.MustCompile(` in ([0-9a-zµ.]+) \(`)

func (o *observer) event(e *corev1.Event) {
	if e.Reason != "Pulled" {
		return
	}
	o.update(e.InvolvedObject.UID, func(s *seen, _ time.Time) {
		s.pulled = true
		if m := pulledIn.FindStringSubmatch(e.Message); m != nil {
			// Other words mean that nothing was pulled.
			s.pull, _ = time.ParseDuration(m[1])
		}
	})
}

func (o *observer) update(uid types.UID, change func(*seen, time.Time)) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.pods[uid]
	if s == nil {
		s = &seen{}
		o.pods[uid] = s
	}
	change(s, now)
	close(o.news)
	o.news = make(chan struct{})
}

// await returns what is known of a pod once that is enough.
func (o *observer) await(ctx context.Context, pod *corev1.Pod, enough func(seen) bool) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		o.mu.Lock()
		var s seen
		if p := o.pods[pod.UID]; p != nil {
			s = *p
		}
		news := o.news
		o.mu.Unlock()
		if enough(s) {
			return s, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return s, fmt.Errorf("waiting for pod %s: %w", pod.Name, ctx.Err())
		}
	}
}
