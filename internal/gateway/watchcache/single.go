package watchcache

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Single is a Source of at most one object. It keeps the object's newest state
// only, and the last state of one that is gone.
type Single struct {
	kind     schema.GroupVersionKind
	versions *Versions

	mu      sync.Mutex
	version uint64 // of the current state, presence or absence
	current *Object
	// last is the object that is gone, for the watches that still show it.
	last *Object
	// born is the version at which current, or else last, came to be.
	born uint64
	// floor is the lowest version that can be resumed from.
	floor uint64
	subscribers
}

var _ Source = (*Single)(nil)

// NewSingle returns an empty source of one kind.
func NewSingle(kind schema.GroupVersionKind, versions *Versions) *Single {
	v := versions.Next()
	return &Single{kind: kind, versions: versions, version: v, born: v, floor: v}
}

// Kind implements Source.
func (s *Single) Kind() schema.GroupVersionKind { return s.kind }

// Set makes obj the current state; its TypeMeta and resource version must be
// empty. A state equal to the current one is no change. It returns whether
// there was one.
func (s *Single) Set(name string, uid types.UID, obj any) (bool, error) {
	rest, err := encode(obj)
	if err != nil {
		return false, err
	}
	next := &Object{Name: name, UID: uid, rest: rest}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil && sameContent(s.current, next) {
		return false, nil
	}
	next.Version = s.versions.Next()
	previous := s.current
	if previous == nil {
		previous = s.last
	}
	switch {
	case previous != nil && previous.UID != uid:
		// Another object. No watch may take it for the one before: all list
		// again.
		s.born, s.floor = next.Version, next.Version
	case s.current == nil:
		s.born = next.Version
	}
	s.current, s.last = next, nil
	s.advance(next.Version)
	return true, nil
}

// Clear makes the object absent and returns whether it was there.
func (s *Single) Clear() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return false
	}
	s.last, s.current = s.current, nil
	s.advance(s.versions.Next())
	return true
}

func (s *Single) advance(version uint64) {
	s.version = version
	s.wakeAll()
}

// Get returns the current state, nil if there is none, and its version.
func (s *Single) Get() (*Object, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.version
}

// List implements Source. A selector cannot apply to the one object that a
// client may see, so it is ignored.
func (s *Single) List(Selector) ([]*Object, uint64) {
	object, version := s.Get()
	if object == nil {
		return nil, version
	}
	return []*Object{object}, version
}

// Since implements Source. However many changes there were, it reports the
// newest state as one event.
func (s *Single) Since(version uint64, _ Selector, events []Event) ([]Event, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case version == s.version:
	case version < s.floor || version > s.version:
		return events, version, ErrExpired
	default:
		// What did a client that reached version see? Nothing, if that was
		// before the object was born, or else the object.
		var seen *Object
		if version >= s.born {
			if seen = s.current; seen == nil {
				seen = s.last
			}
		}
		events = Selector{}.appendEvent(events, seen, s.current, s.version)
	}
	return events, s.version, nil
}
