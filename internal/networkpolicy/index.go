package networkpolicy

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// index knows what each cell is to enforce, and what of it is news to the cell.
// It is told of every change and calls changed for each cell that a change is
// about, with its lock held: changed must only take note.
type index struct {
	// epoch tells this process' revisions from those of another.
	epoch   string
	now     func() time.Time
	changed func(cell string)

	mu sync.Mutex
	// revisions and made count states that cells were told, and sets.
	revisions, made uint64

	namespaces map[string]labels.Set
	pods       map[string]map[podKey]*pod                 // by namespace
	policies   map[string]map[string]*policy              // by namespace and name
	sets       map[string]map[string]*set                 // by the namespace that they look into, and name; "" is all
	targets    map[string]*target                         // by cell
	targetsOf  map[string]map[podKey]map[*target]struct{} // by namespace
	// launched are the addresses of pods by their cells, from the moment that an
	// instance has them. That is long before the pod's status says so: who may
	// hear from the pod knows it before its first packet. An interrupted pod has
	// two cells for a while.
	launched map[types.UID]map[string]netip.Addr
}

// target is a cell, as far as it is known what it is to enforce.
type target struct {
	cell string
	pod  podKey
	uid  types.UID

	// generation counts the changes of rules; 0 is before they were known.
	generation uint64
	rules      rules.Rules
	sets       map[string]*set

	// since is when the oldest change happened that the cell was not told yet;
	// zero if there is none.
	since time.Time
	// telling means that the cell is being told.
	telling bool
}

// told is what a cell was told last. The zero value is nothing.
type told struct {
	revision   string
	uid        types.UID
	generation uint64
	sets       map[string]setVersion
}

type setVersion struct{ id, version uint64 }

func newIndex(epoch string, now func() time.Time, changed func(cell string)) *index {
	return &index{
		epoch: epoch, now: now, changed: changed,
		namespaces: map[string]labels.Set{},
		pods:       map[string]map[podKey]*pod{},
		policies:   map[string]map[string]*policy{},
		sets:       map[string]map[string]*set{},
		targets:    map[string]*target{},
		targetsOf:  map[string]map[podKey]map[*target]struct{}{},
		launched:   map[types.UID]map[string]netip.Addr{},
	}
}

// putNamespace takes the labels of a namespace, which is new or has changed.
func (x *index) putNamespace(name string, l labels.Set) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if before, known := x.namespaces[name]; known && maps.Equal(before, l) {
		return
	}
	x.namespaces[name] = l
	x.reconsider(name)
}

func (x *index) removeNamespace(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.namespaces[name]; known {
		delete(x.namespaces, name)
		x.reconsider(name)
	}
}

// reconsider looks again at the pods of a namespace whose labels have changed.
func (x *index) reconsider(namespace string) {
	in, known := x.namespaces[namespace]
	for _, s := range x.sets[""] {
		changed := false
		for _, pod := range x.pods[namespace] {
			changed = s.put(pod, in, known) || changed
		}
		if changed {
			x.tell(s)
		}
	}
}

// putPod takes a pod that is new or has changed.
func (x *index) putPod(next *pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(next)
}

func (x *index) put(next *pod) {
	next.addresses = next.reported
	if launched := x.launched[next.uid]; len(launched) > 0 {
		next.addresses = slices.SortedFunc(maps.Values(launched), netip.Addr.Compare)
	}
	in := entry(x.pods, next.key.namespace)
	before := in[next.key]
	if before != nil && reflect.DeepEqual(before, next) {
		return
	}
	in[next.key] = next
	namespace, known := x.namespaces[next.key.namespace]
	for s := range x.setsThatSee(next.key.namespace) {
		if s.put(next, namespace, known) {
			x.tell(s)
		}
	}
	for t := range x.targetsOf[next.key.namespace][next.key] {
		x.recompute(t)
	}
}

func (x *index) removePod(key podKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	in := x.pods[key.namespace]
	if in[key] == nil {
		return
	}
	for s := range x.setsThatSee(key.namespace) {
		if s.remove(key) {
			x.tell(s)
		}
	}
	if delete(in, key); len(in) == 0 {
		delete(x.pods, key.namespace)
	}
}

// setsThatSee are the sets to which a pod of the namespace can belong.
func (x *index) setsThatSee(namespace string) func(yield func(*set) bool) {
	return func(yield func(*set) bool) {
		for _, sets := range []map[string]*set{x.sets[namespace], x.sets[""]} {
			for _, s := range sets {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// putPolicy takes a policy that is new or has changed.
func (x *index) putPolicy(p *policy) {
	x.mu.Lock()
	defer x.mu.Unlock()
	in := entry(x.policies, p.namespace)
	before := in[p.name]
	in[p.name] = p
	x.recomputeFor(before, p)
}

func (x *index) removePolicy(namespace, name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	in := x.policies[namespace]
	before := in[name]
	if before == nil {
		return
	}
	if delete(in, name); len(in) == 0 {
		delete(x.policies, namespace)
	}
	x.recomputeFor(before)
}

// recomputeFor recomputes the cells whose pods one of the policies selects, of
// which some may be nil.
func (x *index) recomputeFor(policies ...*policy) {
	for _, p := range policies {
		if p == nil {
			continue
		}
		for key, targets := range x.targetsOf[p.namespace] {
			if pod := x.pods[key.namespace][key]; pod != nil && p.selects(pod) {
				for t := range targets {
					x.recompute(t)
				}
			}
		}
	}
}

// putCell takes a cell and its pod, whose address is not valid before the cell
// has an instance. It says whether the cell is new.
func (x *index) putCell(cell string, key podKey, uid types.UID, address netip.Addr) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if address.IsValid() && x.launched[uid][cell] != address {
		entry(x.launched, uid)[cell] = address
		x.putAgain(key, uid)
	}
	if t := x.targets[cell]; t != nil {
		if t.uid == uid {
			return false
		}
		x.drop(t) // a cell gets one pod, once: another Cell of that name
	}
	t := &target{cell: cell, pod: key, uid: uid, sets: map[string]*set{}}
	x.targets[cell] = t
	entry(entry(x.targetsOf, key.namespace), key)[t] = struct{}{}
	x.recompute(t)
	return true
}

func (x *index) removeCell(cell string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.targets[cell]; t != nil {
		x.drop(t)
		x.putAgain(t.pod, t.uid)
	}
}

// putAgain is called when the addresses that a pod was launched with changed.
func (x *index) putAgain(key podKey, uid types.UID) {
	if p := x.pods[key.namespace][key]; p != nil && p.uid == uid {
		again := *p
		x.put(&again)
	}
}

func (x *index) drop(t *target) {
	for name, s := range t.sets {
		x.leave(t, name, s)
	}
	delete(x.targets, t.cell)
	launched := x.launched[t.uid]
	if delete(launched, t.cell); len(launched) == 0 {
		delete(x.launched, t.uid)
	}
	of := x.targetsOf[t.pod.namespace]
	if delete(of[t.pod], t); len(of[t.pod]) == 0 {
		delete(of, t.pod)
	}
	if len(of) == 0 {
		delete(x.targetsOf, t.pod.namespace)
	}
}

// recompute works out the rules of a cell anew. While its pod is not known they
// stay as they are.
func (x *index) recompute(t *target) {
	pod := x.pods[t.pod.namespace][t.pod]
	if pod == nil || pod.uid != t.uid {
		return
	}
	next, needed := compute(pod, slices.Collect(maps.Values(x.policies[t.pod.namespace])))
	if t.generation > 0 && reflect.DeepEqual(t.rules, next) {
		return
	}
	t.rules = next
	t.generation++
	for name, p := range needed {
		if t.sets[name] == nil {
			s := x.join(name, p)
			s.users[t] = struct{}{}
			t.sets[name] = s
		}
	}
	for name, s := range t.sets {
		if _, stays := needed[name]; !stays {
			x.leave(t, name, s)
		}
	}
	x.note(t)
}

// join finds or makes a set.
func (x *index) join(name string, p peers) *set {
	in := entry(x.sets, p.namespace)
	s := in[name]
	if s == nil {
		x.made++
		s = newSet(x.made, p)
		in[name] = s
		for namespace, pods := range x.pods {
			if p.namespace != "" && p.namespace != namespace {
				continue
			}
			inNamespace, known := x.namespaces[namespace]
			for _, pod := range pods {
				s.put(pod, inNamespace, known)
			}
		}
	}
	return s
}

func (x *index) leave(t *target, name string, s *set) {
	delete(t.sets, name)
	if delete(s.users, t); len(s.users) > 0 {
		return
	}
	in := x.sets[s.peers.namespace]
	if delete(in, name); len(in) == 0 {
		delete(x.sets, s.peers.namespace)
	}
}

// tell notes a change of the set for all that use it.
func (x *index) tell(s *set) {
	for t := range s.users {
		x.note(t)
	}
}

func (x *index) note(t *target) {
	if t.since.IsZero() {
		t.since = x.now()
	}
	x.changed(t.cell)
}

// next returns what a cell that was told last is to be told now, and what it
// will have been told then. since is when the oldest change of it happened; zero
// means that there is none. False is a cell of which nothing is known yet, or
// nothing any more. The caller calls done when it has told the cell, or has not.
func (x *index) next(cell string, last told) (u rules.Update, now told, since time.Time, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.targets[cell]
	if t == nil || t.generation == 0 {
		return u, now, since, false
	}
	if last.uid != t.uid {
		last = told{}
	}
	x.revisions++
	now = told{
		revision: fmt.Sprintf("%s-%d", x.epoch, x.revisions), uid: t.uid, generation: t.generation,
		sets: make(map[string]setVersion, len(t.sets)),
	}
	u = rules.Update{From: last.revision, Revision: now.revision}
	if last.generation != t.generation {
		r := t.rules
		u.Rules = &r
	}
	for name, s := range t.sets {
		at := setVersion{s.id, s.version}
		now.sets[name] = at
		var change rules.Change
		if before, has := last.sets[name]; !has || before.id != s.id {
			change = s.whole()
		} else if before == at {
			continue
		} else {
			change = s.since(before.version)
		}
		if u.Sets == nil {
			u.Sets = map[string]rules.Change{}
		}
		u.Sets[name] = change
	}
	since = t.since
	t.since, t.telling = time.Time{}, true
	return u, now, since, true
}

// done ends what next began. since is what next returned if the cell was not
// told, else zero.
func (x *index) done(cell string, since time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.targets[cell]
	if t == nil {
		return
	}
	t.telling = false
	if !since.IsZero() {
		t.since = since
	}
}

// pending are the cells that do not enforce yet what they are to.
func (x *index) pending() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, t := range x.targets {
		if t.telling || !t.since.IsZero() || t.generation == 0 {
			n++
		}
	}
	return n
}

// podOf is whose rules a cell enforces.
func (x *index) podOf(cell string) (key podKey, uid types.UID, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := x.targets[cell]
	if t == nil {
		return podKey{}, "", false
	}
	return t.pod, t.uid, true
}

// entry returns the map's map for the key, and makes it if there is none.
func entry[K, L comparable, V any](m map[K]map[L]V, key K) map[L]V {
	in := m[key]
	if in == nil {
		in = map[L]V{}
		m[key] = in
	}
	return in
}
