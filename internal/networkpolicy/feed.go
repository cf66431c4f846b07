package networkpolicy

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// feed leads what a reflector sees into the index. It keeps the names of what is
// there, and no objects.
type feed struct {
	put    func(obj any)
	remove func(namespace, name string)

	mu     sync.Mutex
	there  map[podKey]struct{}
	synced chan struct{}
	once   sync.Once
}

var _ cache.TransformingStore = (*feed)(nil)

// Transformer implements cache.TransformingStore.
func (f *feed) Transformer() cache.TransformFunc { return trim }

// Add implements cache.ReflectorStore.
func (f *feed) Add(obj any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	f.there[key] = struct{}{}
	f.put(obj)
	return nil
}

// Update implements cache.ReflectorStore.
func (f *feed) Update(obj any) error { return f.Add(obj) }

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(obj any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	delete(f.there, key)
	f.remove(key.namespace, key.name)
	return nil
}

// Replace implements cache.ReflectorStore: the reflector has listed anew.
func (f *feed) Replace(list []any, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := make(map[podKey]struct{}, len(list))
	for _, obj := range list {
		key, err := keyOf(obj)
		if err != nil {
			return err
		}
		fresh[key] = struct{}{}
	}
	for key := range f.there {
		if _, stays := fresh[key]; !stays {
			f.remove(key.namespace, key.name)
		}
	}
	for _, obj := range list {
		f.put(obj)
	}
	f.there = fresh
	f.once.Do(func() { close(f.synced) })
	return nil
}

// Resync implements cache.ReflectorStore. There is nothing to do.
func (f *feed) Resync() error { return nil }

func keyOf(obj any) (podKey, error) {
	o, err := meta.Accessor(obj)
	if err != nil {
		return podKey{}, fmt.Errorf("taking up a change of the cluster: %w", err)
	}
	return podKey{o.GetNamespace(), o.GetName()}, nil
}

// source is a resource that is watched.
type source struct {
	*feed
	reflector *cache.Reflector
}

// listWatcher is what the typed clients of all resources have in common.
type listWatcher[List runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (List, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func newSource[List runtime.Object](name string, client kubernetes.Interface, typed listWatcher[List], example runtime.Object,
	put func(obj any), remove func(namespace, name string),
) source {
	f := &feed{put: put, remove: remove, there: map[podKey]struct{}{}, synced: make(chan struct{})}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return typed.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return typed.Watch(ctx, options)
		},
	}
	return source{f, cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, client), example, f, cache.ReflectorOptions{Name: "networkpolicy/" + name},
	)}
}

// newSources watches all that policies are about, in the whole cluster.
func (c *Controller) newSources() []source {
	x, client := c.index, c.cfg.Kube
	return []source{
		newSource("namespaces", client, client.CoreV1().Namespaces(), &corev1.Namespace{},
			func(obj any) { n := obj.(*corev1.Namespace); x.putNamespace(n.Name, n.Labels) },
			func(_, name string) { x.removeNamespace(name) }),
		newSource("pods", client, client.CoreV1().Pods(metav1.NamespaceAll), &corev1.Pod{},
			func(obj any) { x.putPod(newPod(obj.(*corev1.Pod))) },
			func(namespace, name string) { x.removePod(podKey{namespace, name}) }),
		newSource("networkpolicies", client, client.NetworkingV1().NetworkPolicies(metav1.NamespaceAll), &networkingv1.NetworkPolicy{},
			func(obj any) { x.putPolicy(c.read(obj.(*networkingv1.NetworkPolicy))) },
			x.removePolicy),
	}
}

// read reads a policy. One that cannot be understood closes what it may be
// about.
func (c *Controller) read(np *networkingv1.NetworkPolicy) *policy {
	p, err := newPolicy(np)
	if err != nil {
		c.cfg.Log.Error("a NetworkPolicy cannot be understood; no traffic is allowed in its namespace", "err", err)
		return closed(np)
	}
	return p
}
