package watchcache

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
)

const (
	// flushSize is how much of a watch's first, possibly long answer is
	// gathered before it is written.
	flushSize = 64 << 10
	// keepSize is the largest buffer that is kept for the next event.
	keepSize = 256 << 10
	// bookmarkInterval is how often a watch whose selector hides the changes
	// is told how far it has come, so that it can resume from there.
	bookmarkInterval = time.Minute
)

// buffers are lent to a watch while it writes, never while it waits: most of
// many thousand watches wait.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// WriteList answers a list request.
func WriteList(w http.ResponseWriter, src Source, sel Selector) error {
	objects, version := src.List(sel)
	kind := src.Kind()
	listKind := schema.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind + "List"}

	buf := buffers.Get().(*[]byte)
	defer release(buf)
	out := append(appendTypeAndVersion((*buf)[:0], listKind, version), `},"items":[`...)
	defer func() { *buf = out }()
	w.Header().Set("Content-Type", "application/json")
	for i, object := range objects {
		if i > 0 {
			out = append(out, ',')
		}
		out = object.AppendJSON(out, kind, object.Version)
		if len(out) >= flushSize {
			if _, err := w.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	out = append(out, `]}`...)
	_, err := w.Write(out)
	return err
}

// WatchOptions say what a watch was asked for.
type WatchOptions struct {
	Selector Selector
	// InitialEvents asks for the present state first, as additions.
	InitialEvents bool
	// Bookmarks allows bookmarks. With InitialEvents it also asks for the one
	// that marks their end, if InitialEventsEnd is set.
	Bookmarks, InitialEventsEnd bool
	// From is the version to resume from, without InitialEvents. 0 is now.
	From uint64
	// Timeout ends the watch.
	Timeout time.Duration
	Clock   clock.Clock
	// Poke may be nil. A value on it means that the source may have changed
	// without knowing it yet.
	Poke <-chan struct{}
}

// ServeWatch answers a watch request until ctx ends or the time is over. The
// error is ErrExpired, and nothing was answered, if the watch cannot start at
// the version asked for.
func ServeWatch(ctx context.Context, w http.ResponseWriter, src Source, o WatchOptions) error {
	timeout := o.Clock.NewTimer(o.Timeout)
	defer timeout.Stop()
	bookmark := o.Clock.NewTimer(bookmarkInterval)
	defer bookmark.Stop()

	stream := stream{w: w, flush: http.NewResponseController(w), kind: src.Kind()}
	var initial []*Object
	reached := o.From
	if o.InitialEvents || o.From == 0 {
		initial, reached = src.List(o.Selector)
	}
	if _, _, _, err := src.Since(reached, o.Selector, nil); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)

	if o.InitialEvents {
		events := make([]Event, 0, len(initial))
		for _, object := range initial {
			events = append(events, Event{Type: watch.Added, Object: object, Version: object.Version})
		}
		stream.send(events)
		if o.InitialEventsEnd && o.Bookmarks {
			stream.bookmark(reached, true)
		}
	}
	// The client learns at once that the watch stands.
	stream.flushNow()

	var (
		events  []Event
		changed <-chan struct{}
		err     error
	)
	told := reached // the version that the client knows it has reached
	for stream.err == nil {
		events, reached, changed, err = src.Since(reached, o.Selector, events[:0])
		if err != nil {
			stream.fail(err)
			break
		}
		if len(events) > 0 {
			told = events[len(events)-1].Version
			stream.send(events)
			stream.flushNow()
			clear(events)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-o.Poke:
		case <-bookmark.C():
			bookmark.Reset(bookmarkInterval)
			if o.Bookmarks && told < reached {
				told = reached
				stream.bookmark(reached, false)
				stream.flushNow()
			}
		case <-timeout.C():
			if o.Bookmarks && told < reached {
				stream.bookmark(reached, false)
				stream.flushNow()
			}
			return nil
		}
	}
	return nil
}

// stream writes the frames of one watch. After the first error, which means
// that the client is gone, it does nothing.
type stream struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	kind  schema.GroupVersionKind
	err   error
}

func (s *stream) send(events []Event) {
	buf := buffers.Get().(*[]byte)
	defer release(buf)
	out := (*buf)[:0]
	for i := range events {
		e := &events[i]
		out = append(out, `{"type":"`...)
		out = append(out, e.Type...)
		out = append(out, `","object":`...)
		out = e.Object.AppendJSON(out, s.kind, e.Version)
		out = append(out, "}\n"...)
		if len(out) >= flushSize {
			s.write(out)
			out = out[:0]
		}
	}
	s.write(out)
	*buf = out
}

// bookmark tells the client that it has reached version, and at the end of the
// initial events that it has all of them.
func (s *stream) bookmark(version uint64, initialEventsEnd bool) {
	out := append([]byte(nil), `{"type":"BOOKMARK","object":`...)
	out = appendTypeAndVersion(out, s.kind, version)
	if initialEventsEnd {
		out = append(out, `,"annotations":{"`+metav1.InitialEventsAnnotationKey+`":"true"}`...)
	}
	s.write(append(out, "}}}\n"...))
}

// fail ends the watch with an error that the client understands.
func (s *stream) fail(err error) {
	status := apierrors.NewInternalError(err)
	if errors.Is(err, ErrExpired) {
		status = apierrors.NewResourceExpired(err.Error())
	}
	object := status.Status()
	object.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	data, err := json.Marshal(&object)
	if err != nil {
		return // the watch just ends, which is right too
	}
	s.write([]byte(`{"type":"ERROR","object":` + string(data) + "}\n"))
	s.flushNow()
}

func (s *stream) write(data []byte) {
	if s.err == nil && len(data) > 0 {
		_, s.err = s.w.Write(data)
	}
}

func (s *stream) flushNow() {
	if s.err == nil {
		s.err = s.flush.Flush()
	}
}

func release(buf *[]byte) {
	if cap(*buf) <= keepSize {
		*buf = (*buf)[:0]
		buffers.Put(buf)
	}
}
