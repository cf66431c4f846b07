package watchcache

import (
	"errors"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// ErrExpired says that a version cannot be resumed from: it is older than what
// is remembered, or was never handed out by this process. The client lists
// again.
var ErrExpired = errors.New("the resource version is too old or unknown: list again")

// Source is something that can be listed and watched. Its methods do not
// block and may be called from any goroutine.
type Source interface {
	// Kind is the kind of its objects.
	Kind() schema.GroupVersionKind

	// List returns the objects that match, in the order of their names, and
	// the version that this state has.
	List(Selector) ([]*Object, uint64)

	// Since appends to events what happened after version to objects that
	// match, oldest first. It returns the version thereby reached. The error is
	// ErrExpired.
	Since(version uint64, sel Selector, events []Event) (all []Event, reached uint64, err error)

	// Subscribe has wake called after every change, until cancel was called.
	// wake must not block, nor call the source.
	Subscribe(wake func()) (cancel func())
}

// subscribers are who is to be woken by a change. They have a lock of their own:
// whoever changes the source holds that one's.
type subscribers struct {
	mu   sync.Mutex
	next int
	wake map[int]func()
}

// Subscribe implements Source.
func (s *subscribers) Subscribe(wake func()) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		s.wake = map[int]func(){}
	}
	s.next++
	mine := s.next
	s.wake[mine] = wake
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.wake, mine)
	}
}

func (s *subscribers) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, wake := range s.wake {
		wake()
	}
}

// Event is one entry of a watch.
type Event struct {
	Type   watch.EventType
	Object *Object
	// Version is the resource version the object is sent with.
	Version uint64
}

// Selector chooses objects. The zero Selector chooses all.
type Selector struct {
	Labels labels.Selector
	Fields fields.Selector
}

// Matches tells whether an object is chosen. It is false for no object.
func (s Selector) Matches(o *Object) bool {
	if o == nil {
		return false
	}
	if s.Labels != nil && !s.Labels.Empty() && !s.Labels.Matches(o.Labels) {
		return false
	}
	return s.Fields == nil || s.Fields.Empty() || s.Fields.Matches(o.Fields)
}

// appendEvent adds what a watch with this selector sees of a change from one
// state of an object to another; nil is absence.
func (s Selector) appendEvent(events []Event, before, after *Object, version uint64) []Event {
	was, is := s.Matches(before), s.Matches(after)
	switch {
	case is && was:
		return append(events, Event{Type: watch.Modified, Object: after, Version: version})
	case is:
		return append(events, Event{Type: watch.Added, Object: after, Version: version})
	case was:
		return append(events, Event{Type: watch.Deleted, Object: before, Version: version})
	}
	return events
}
