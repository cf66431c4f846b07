package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// life is when a watch told of the steps of a pod's life for the first time.
type life struct{ bound, runs, gone time.Time }

// lives are those of thousands of pods.
type lives struct {
	mu   sync.Mutex
	pods map[types.UID]*life
	// news is closed and replaced at every change.
	news chan struct{}
}

// follow begins to watch the pods of the bench's namespace, until stop is
// called.
func (b *bench) follow(ctx context.Context) (_ *lives, stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &lives{pods: map[types.UID]*life{}, news: make(chan struct{})}
	factory := informers.NewSharedInformerFactoryWithOptions(b.kube, 0, informers.WithNamespace(namespace))
	pods := factory.Core().V1().Pods().Informer()
	_, err = pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { l.see(obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { l.see(obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			l.change(obj.(*corev1.Pod).UID, func(l *life, now time.Time) { l.gone = now })
		},
	})
	if err != nil {
		cancel()
		return nil, nil, err
	}
	factory.StartWithContext(ctx)
	stop = func() { cancel(); factory.Shutdown() }
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		stop()
		return nil, nil, ctx.Err()
	}
	return l, stop, nil
}

func (l *lives) see(pod *corev1.Pod) {
	l.change(pod.UID, func(l *life, now time.Time) {
		if l.bound.IsZero() && pod.Spec.NodeName != "" {
			l.bound = now
		}
		if l.runs.IsZero() && pod.Status.Phase == corev1.PodRunning {
			l.runs = now
		}
	})
}

func (l *lives) change(uid types.UID, f func(*life, time.Time)) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods[uid] == nil {
		l.pods[uid] = &life{}
	}
	f(l.pods[uid], now)
	close(l.news)
	l.news = make(chan struct{})
}

// of is what is known of a pod.
func (l *lives) of(uid types.UID) life {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.pods[uid]; p != nil {
		return *p
	}
	return life{}
}

// await returns what is known of a pod once that is enough.
func (l *lives) await(ctx context.Context, uid types.UID, enough func(life) bool) (life, error) {
	for {
		l.mu.Lock()
		news := l.news
		l.mu.Unlock()
		if is := l.of(uid); enough(is) {
			return is, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return life{}, fmt.Errorf("waiting for pod %s: %w", uid, ctx.Err())
		}
	}
}
