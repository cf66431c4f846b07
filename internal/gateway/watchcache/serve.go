package watchcache

import (
	"context"
	"encoding/json"
	"errors"
	"io"
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
	// BookmarkInterval is how often a watch whose selector hides the changes
	// is told how far it has come, so that it can resume from there.
	BookmarkInterval = time.Minute
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
}

// Watch is how far a watch has come. It does nothing by itself: what happened
// since is written when its owner asks for it. Its methods are called one at a
// time, Begin first. An error is that of the writer.
type Watch struct {
	src     Source
	o       WatchOptions
	reached uint64
	told    uint64 // the version that the client knows it has reached
}

// NewWatch makes a watch of a source. The error is ErrExpired if it cannot start
// at the version asked for.
func NewWatch(src Source, o WatchOptions) (*Watch, error) {
	x := &Watch{src: src, o: o, reached: o.From, told: o.From}
	if !o.InitialEvents && o.From == 0 {
		_, x.reached = src.List(o.Selector)
		x.told = x.reached
	}
	if o.InitialEvents {
		return x, nil
	}
	_, _, err := src.Since(x.reached, o.Selector, nil)
	return x, err
}

// Begin writes what the client is told at once.
func (x *Watch) Begin(w io.Writer) error {
	if !x.o.InitialEvents {
		return nil
	}
	initial, version := x.src.List(x.o.Selector)
	x.reached, x.told = version, version
	events := make([]Event, 0, len(initial))
	for _, object := range initial {
		events = append(events, Event{Type: watch.Added, Object: object, Version: object.Version})
	}
	s := stream{w: w, kind: x.src.Kind()}
	s.send(events)
	if x.o.InitialEventsEnd && x.o.Bookmarks {
		s.bookmark(version, true)
	}
	return s.err
}

// Next writes what happened since, and says whether that was anything. When
// over is true it was the last: the client must begin anew, and was told so.
func (x *Watch) Next(w io.Writer) (wrote, over bool, err error) {
	s := stream{w: w, kind: x.src.Kind()}
	events, reached, err := x.src.Since(x.reached, x.o.Selector, nil)
	if err != nil {
		s.fail(err)
		return true, true, s.err
	}
	x.reached = reached
	if len(events) == 0 {
		return false, false, nil
	}
	x.told = events[len(events)-1].Version
	s.send(events)
	return true, false, s.err
}

// Bookmark writes how far the watch has come, if the client does not know and
// wants to: its selector hid the changes.
func (x *Watch) Bookmark(w io.Writer) (wrote bool, err error) {
	if !x.o.Bookmarks || x.told >= x.reached {
		return false, nil
	}
	x.told = x.reached
	s := stream{w: w, kind: x.src.Kind()}
	s.bookmark(x.reached, false)
	return true, s.err
}

// Serve answers a watch request with nothing but this watch until ctx ends or
// the time is over. Poke may be nil; a value on it means that the source may
// have changed without knowing it yet.
func (x *Watch) Serve(ctx context.Context, w http.ResponseWriter, timeout time.Duration, clk clock.Clock, poke <-chan struct{}) {
	end := clk.NewTimer(timeout)
	defer end.Stop()
	bookmark := clk.NewTimer(BookmarkInterval)
	defer bookmark.Stop()
	changed := make(chan struct{}, 1)
	defer x.src.Subscribe(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()

	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	if x.Begin(w) != nil {
		return
	}
	wrote, last := true, false // the client learns at once that the watch stands
	for {
		more, over, err := x.Next(w)
		if last && !over && err == nil {
			wrote, err = x.Bookmark(w)
		}
		if err != nil || (wrote || more) && flush() != nil || over || last {
			return
		}
		wrote = false
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-poke:
		case <-bookmark.C():
			bookmark.Reset(BookmarkInterval)
			if wrote, err = x.Bookmark(w); err != nil {
				return
			}
		case <-end.C():
			last = true
		}
	}
}

// stream writes the frames of one watch. After the first error, which means
// that the client is gone, it does nothing.
type stream struct {
	w    io.Writer
	kind schema.GroupVersionKind
	err  error
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
}

func (s *stream) write(data []byte) {
	if s.err == nil && len(data) > 0 {
		_, s.err = s.w.Write(data)
	}
}

func release(buf *[]byte) {
	if cap(*buf) <= keepSize {
		*buf = (*buf)[:0]
		buffers.Put(buf)
	}
}
