package simulation

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	toolscache "k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// view is what one Kip has read of the API server, later than it happened. It
// is a manager's cache and the informers in it.
type view struct {
	ctrlcache.Cache // nil: Kip uses nothing else of it
	kip             *kip

	// Only the loop changes these, while everybody else waits.
	read   map[kind]int // how much of the log
	coming map[kind]bool
	stuck  map[kind]time.Time
	// broken: the watch ended, and everything is listed again.
	broken map[kind]bool

	mu        sync.RWMutex
	objects   map[kind]map[client.ObjectKey]client.Object
	informers map[kind]*informer
	indexes   map[string]client.IndexerFunc
	synced    bool
}

func newView(k *kip) *view {
	v := &view{
		kip: k, read: map[kind]int{}, coming: map[kind]bool{}, stuck: map[kind]time.Time{}, broken: map[kind]bool{},
		objects: map[kind]map[client.ObjectKey]client.Object{pods: {}, cells: {}}, informers: map[kind]*informer{}, indexes: map[string]client.IndexerFunc{},
	}
	for _, k := range []kind{pods, cells} {
		v.informers[k] = &informer{view: v, kind: k, store: toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc,
			toolscache.Indexers{toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc})}
	}
	return v
}

// fill lists everything for the first time.
func (v *view) fill() {
	api := v.kip.world.api
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, k := range []kind{pods, cells} {
		v.read[k] = len(api.log[k])
		for _, o := range api.list(k) {
			v.objects[k][client.ObjectKeyFromObject(o)] = o
			_ = v.informers[k].store.Add(o)
		}
	}
	v.synced = true
}

// news is called by the API server.
func (v *view) news(k kind) {
	if !v.synced || v.coming[k] || v.kip.isDead() {
		return
	}
	v.coming[k] = true
	w := v.kip.world
	due := time.Now().Add(w.lag())
	if v.stuck[k].After(due) {
		due = v.stuck[k]
	}
	w.at(due, v.kip, fmt.Sprintf("kip%d reads %s", v.kip.number, k), func() bool {
		v.coming[k] = false
		if v.kip.isDead() {
			return false
		}
		if v.broken[k] && w.reachable() {
			v.broken[k] = false
			v.relist(k)
		}
		v.catchUp(k)
		return false
	})
}

// stall keeps news away for a while.
func (v *view) stall(k kind, until time.Time, broken bool) {
	v.stuck[k] = until
	v.broken[k] = v.broken[k] || broken
	v.news(k)
}

func (v *view) catchUp(k kind) {
	w := v.kip.world
	log := w.api.log[k]
	for v.read[k] < len(log) {
		c := log[v.read[k]]
		v.read[k]++
		v.apply(k, c.old, c.now)
		if c.now != nil && w.chance(w.plan.duplicates) {
			v.apply(k, c.now, c.now)
		}
	}
}

// relist is what a reflector does when its watch cannot be resumed: it sees no
// more than the difference.
func (v *view) relist(k kind) {
	api := v.kip.world.api
	v.read[k] = len(api.log[k])
	for _, old := range v.sorted(k) {
		key := client.ObjectKeyFromObject(old)
		switch now := api.objects[k][key]; {
		case now == nil:
			v.set(k, old, nil)
			v.tell(k, func(h toolscache.ResourceEventHandler) {
				h.OnDelete(toolscache.DeletedFinalStateUnknown{Key: toolscache.ObjectName(key).String(), Obj: old})
			})
		case now != old:
			v.apply(k, old, now)
		}
	}
	for _, o := range api.list(k) {
		if v.objects[k][client.ObjectKeyFromObject(o)] == nil {
			v.apply(k, nil, o)
		}
	}
}

func (v *view) set(k kind, old, now client.Object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now == nil {
		delete(v.objects[k], client.ObjectKeyFromObject(old))
		_ = v.informers[k].store.Delete(old)
		return
	}
	v.objects[k][client.ObjectKeyFromObject(now)] = now
	_ = v.informers[k].store.Add(now)
}

func (v *view) apply(k kind, old, now client.Object) {
	v.set(k, old, now)
	v.tell(k, func(h toolscache.ResourceEventHandler) {
		switch {
		case old == nil:
			h.OnAdd(now, false)
		case now == nil:
			h.OnDelete(old)
		default:
			h.OnUpdate(old, now)
		}
	})
}

// tell hands news to the handlers, one after the other, and lets whom they wake
// come as far as the next step: whether a queue has the same thing once or
// twice must not depend on who is faster.
func (v *view) tell(k kind, what func(toolscache.ResourceEventHandler)) {
	for _, h := range v.informers[k].handlers {
		what(h)
		synctest.Wait()
	}
}

// sorted are the objects of a kind by name.
func (v *view) sorted(k kind) []client.Object {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make([]client.Object, 0, len(v.objects[k]))
	for _, o := range v.objects[k] {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b client.Object) int {
		if client.ObjectKeyFromObject(a).String() < client.ObjectKeyFromObject(b).String() {
			return -1
		}
		return 1
	})
	return all
}

func (v *view) get(key client.ObjectKey, o client.Object) error {
	k := kindOf(o)
	v.mu.RLock()
	found := v.objects[k][key]
	v.mu.RUnlock()
	if found == nil {
		return apierrors.NewNotFound(k.resource(), key.Name)
	}
	copyObject(found, o)
	return nil
}

func (v *view) list(l client.ObjectList, opts []client.ListOption) error {
	var options client.ListOptions
	options.ApplyOptions(opts)
	var found []client.Object
	for _, o := range v.sorted(kindOfList(l)) {
		ok, err := v.matches(o, options.FieldSelector)
		if err != nil {
			return err
		}
		if ok {
			found = append(found, o)
		}
	}
	copyList(found, l)
	return nil
}

func (v *view) matches(o client.Object, s fields.Selector) (bool, error) {
	if s == nil {
		return true, nil
	}
	for _, r := range s.Requirements() {
		index := v.indexes[r.Field]
		if index == nil {
			return false, fmt.Errorf("there is no index %s", r.Field)
		}
		if !slices.Contains(index(o), r.Value) {
			return false, nil
		}
	}
	return true, nil
}

// IndexField implements client.FieldIndexer.
func (v *view) IndexField(_ context.Context, _ client.Object, field string, index client.IndexerFunc) error {
	v.indexes[field] = index
	return nil
}

// GetInformer implements cache.Informers.
func (v *view) GetInformer(_ context.Context, o client.Object, _ ...ctrlcache.InformerGetOption) (ctrlcache.Informer, error) {
	return v.informers[kindOf(o)], nil
}

// WaitForCacheSync implements cache.Informers. Nothing is started before.
func (v *view) WaitForCacheSync(context.Context) bool { return true }

// informer is of one kind.
type informer struct {
	toolscache.SharedIndexInformer // nil: as above
	view                           *view
	kind                           kind
	store                          toolscache.Indexer

	handlers []toolscache.ResourceEventHandler
}

func (i *informer) GetIndexer() toolscache.Indexer           { return i.store }
func (i *informer) HasSynced() bool                          { return true }
func (i *informer) HasSyncedChecker() toolscache.DoneChecker { return nil }
func (i *informer) IsStopped() bool                          { return false }
func (i *informer) AddIndexers(toolscache.Indexers) error    { return nil }

// AddEventHandler shows the handler what is there.
func (i *informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	all := i.view.sorted(i.kind)
	i.view.mu.Lock()
	i.handlers = append(i.handlers, h)
	i.view.mu.Unlock()
	for _, o := range all {
		h.OnAdd(o, true)
	}
	return i, nil
}

func (i *informer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, _ toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}
