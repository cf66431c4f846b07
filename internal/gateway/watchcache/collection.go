package watchcache

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

// DefaultHistory is how many changes a Collection remembers. A kube-proxy that
// is away for the time of this many changes lists again.
const DefaultHistory = 4096

// Collection is a Source of all objects of a resource. A client-go reflector
// fills it: it is the reflector's store.
type Collection struct {
	// Prepare, if it is set before the collection is filled, may change every
	// object before it is kept.
	Prepare func(runtime.Object)

	kind     schema.GroupVersionKind
	versions *Versions
	fieldsOf func(runtime.Object) fields.Set

	mu      sync.RWMutex
	objects map[key]*Object
	sorted  []*Object // of objects; nil when it must be made again
	version uint64
	subscribers

	// changes is a ring of the last ones; next is where the coming one goes.
	changes []change
	next    int
	// floor is the version before the oldest change in the ring.
	floor uint64

	synced     chan struct{}
	syncedOnce sync.Once
}

// key is the key of an object in a collection.
type key struct{ namespace, name string }

type change struct {
	version       uint64
	before, after *Object
}

var (
	_ Source               = (*Collection)(nil)
	_ cache.ReflectorStore = (*Collection)(nil)
)

// NewCollection returns an empty collection that remembers the last history
// changes (at least 1). fieldsOf says which fields, besides metadata.name and
// metadata.namespace, can be selected by; it may be nil.
func NewCollection(kind schema.GroupVersionKind, versions *Versions, history int, fieldsOf func(runtime.Object) fields.Set) *Collection {
	v := versions.Next()
	return &Collection{
		kind:     kind,
		versions: versions,
		fieldsOf: fieldsOf,
		objects:  map[key]*Object{},
		version:  v,
		floor:    v,
		changes:  make([]change, 0, history),
		synced:   make(chan struct{}),
	}
}

// Kind implements Source.
func (c *Collection) Kind() schema.GroupVersionKind { return c.kind }

// Synced is closed once the collection was filled for the first time.
func (c *Collection) Synced() <-chan struct{} { return c.synced }

// Len is the number of objects.
func (c *Collection) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.objects)
}

// Get returns one object, nil if it is not there.
func (c *Collection) Get(namespace, name string) *Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.objects[key{namespace, name}]
}

// List implements Source.
func (c *Collection) List(sel Selector) ([]*Object, uint64) {
	sorted, version := c.snapshot()
	matching := make([]*Object, 0, len(sorted))
	for _, o := range sorted {
		if sel.Matches(o) {
			matching = append(matching, o)
		}
	}
	return matching, version
}

// snapshot returns all objects in order. The slice is shared and never
// changed.
func (c *Collection) snapshot() ([]*Object, uint64) {
	c.mu.RLock()
	sorted, version := c.sorted, c.version
	c.mu.RUnlock()
	if sorted != nil {
		return sorted, version
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sorted == nil {
		c.sorted = make([]*Object, 0, len(c.objects))
		for _, o := range c.objects {
			c.sorted = append(c.sorted, o)
		}
		slices.SortFunc(c.sorted, func(a, b *Object) int {
			if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
				return n
			}
			return strings.Compare(a.Name, b.Name)
		})
	}
	return c.sorted, c.version
}

// Since implements Source.
func (c *Collection) Since(version uint64, sel Selector, events []Event) ([]Event, uint64, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if version < c.floor || version > c.version {
		return events, version, ErrExpired
	}
	// Most watches are only a few changes behind, so look from the end. (While
	// the ring is not full next is 0.)
	n := len(c.changes)
	first := n
	for first > 0 && c.changes[(c.next+first-1)%n].version > version {
		first--
	}
	for i := first; i < n; i++ {
		ch := &c.changes[(c.next+i)%n]
		events = sel.appendEvent(events, ch.before, ch.after, ch.version)
	}
	return events, c.version, nil
}

// Add implements cache.ReflectorStore.
func (c *Collection) Add(obj any) error {
	object, err := c.encode(obj)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.wakeAfter(c.version)
	c.put(object)
	return nil
}

// Update implements cache.ReflectorStore.
func (c *Collection) Update(obj any) error { return c.Add(obj) }

// Delete implements cache.ReflectorStore.
func (c *Collection) Delete(obj any) error {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Errorf("removing a %s: %w", c.kind.Kind, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.wakeAfter(c.version)
	c.remove(key{accessor.GetNamespace(), accessor.GetName()})
	return nil
}

// Replace implements cache.ReflectorStore: the reflector has listed anew. Only
// what differs is a change.
func (c *Collection) Replace(list []any, _ string) error {
	fresh := make(map[key]*Object, len(list))
	for _, obj := range list {
		object, err := c.encode(obj)
		if err != nil {
			return err
		}
		fresh[key{object.Namespace, object.Name}] = object
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.wakeAfter(c.version)
	for k := range c.objects {
		if fresh[k] == nil {
			c.remove(k)
		}
	}
	for _, object := range fresh {
		c.put(object)
	}
	c.syncedOnce.Do(func() {
		// No watch was served before. Nobody can resume from inside the
		// filling, so it need not be remembered.
		c.changes, c.next, c.floor = c.changes[:0], 0, c.version
		clear(c.changes[:cap(c.changes)])
		close(c.synced)
	})
	return nil
}

// Resync implements cache.ReflectorStore. There is nothing to do.
func (c *Collection) Resync() error { return nil }

func (c *Collection) put(object *Object) {
	k := key{object.Namespace, object.Name}
	before := c.objects[k]
	if before != nil && sameContent(before, object) {
		return
	}
	if before != nil && before.UID != object.UID {
		// It was deleted and made again while the reflector looked away.
		c.remove(k)
		before = nil
	}
	object.Version = c.versions.Next()
	c.objects[k] = object
	c.record(change{version: object.Version, before: before, after: object})
}

func (c *Collection) remove(k key) {
	before := c.objects[k]
	if before == nil {
		return
	}
	delete(c.objects, k)
	c.record(change{version: c.versions.Next(), before: before})
}

// record remembers a change, in place of the oldest one if need be.
func (c *Collection) record(ch change) {
	c.version = ch.version
	c.sorted = nil
	if len(c.changes) < cap(c.changes) {
		c.changes = append(c.changes, ch)
		return
	}
	c.floor = c.changes[c.next].version
	c.changes[c.next] = ch
	c.next = (c.next + 1) % len(c.changes)
}

// wakeAfter wakes the watches if there was a change since version.
func (c *Collection) wakeAfter(version uint64) {
	if c.version == version {
		return
	}
	c.wakeAll()
}

// encode takes an object over from the reflector, which does not use it any
// more.
func (c *Collection) encode(obj any) (*Object, error) {
	object, ok := obj.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("caching a %s: got a %T", c.kind.Kind, obj)
	}
	m, err := meta.Accessor(object)
	if err != nil {
		return nil, fmt.Errorf("caching a %s: %w", c.kind.Kind, err)
	}
	if c.Prepare != nil {
		c.Prepare(object)
	}
	m.SetManagedFields(nil)
	m.SetResourceVersion("")
	object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	rest, err := encode(object)
	if err != nil {
		return nil, err
	}
	set := fields.Set{}
	if c.fieldsOf != nil {
		set = c.fieldsOf(object)
	}
	set[metav1.ObjectNameField] = m.GetName()
	set["metadata.namespace"] = m.GetNamespace()
	return &Object{
		Namespace: m.GetNamespace(),
		Name:      m.GetName(),
		UID:       m.GetUID(),
		Labels:    m.GetLabels(),
		Fields:    set,
		rest:      rest,
	}, nil
}
