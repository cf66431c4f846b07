package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kjson "sigs.k8s.io/json"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
	"github.com/elotl/kip/v2/internal/watchstream"
)

// watchStream is where all watches of a cell are told what happens: one answer
// that never ends, and one goroutine that writes to it. What waits is a few
// words for each watch.
type watchStream struct {
	g  *Gateway
	id uint64
	// ctx ends with the stream.
	ctx context.Context
	// wake has a value when there is something in stirred.
	wake chan struct{}
	// passing are the goroutines that pass on watches of the API server.
	passing sync.WaitGroup

	mu      sync.Mutex
	over    bool // no watch is added any more
	watches map[uint64]*streamed
	// stirred are the watches of which something may have happened.
	stirred []*streamed

	writing sync.Mutex
	w       http.ResponseWriter
}

// streamed is one watch.
type streamed struct {
	number uint64
	// watch is nil for one that the API server answers.
	watch *watchcache.Watch
	begun bool
	// own: State pokes it.
	own bool
	// until is when its time is over, and over that nobody is to see more of it.
	until time.Time
	over  atomic.Bool
	// stirs is guarded by the stream's mu: it is in stirred.
	stirs bool
	// end is called once, without a lock.
	end func()
}

// openWatches makes the cell's stream and writes to it until the cell hangs up.
// A cell has one: its agent makes a new one when it has lost the old.
func (g *Gateway) openWatches(cell Cell, _ []byte, w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s := &watchStream{
		g: g, id: g.versions.Next(), ctx: ctx, w: w,
		wake: make(chan struct{}, 1), watches: map[uint64]*streamed{},
	}
	state := g.cell(cell.Name)
	state.mu.Lock()
	before := state.stream
	state.stream = s
	state.mu.Unlock()
	if before != nil {
		before.stop()
	}
	poke, unsubscribe := g.state.Subscribe(cell.Name)
	defer unsubscribe()

	w.Header().Set("Content-Type", watchstream.MediaType)
	w.Header().Set(watchstream.Header, watchstream.Watch{Stream: s.id}.String())
	w.WriteHeader(http.StatusOK)
	if s.flush() == nil {
		s.serve(poke)
	}
	s.stop()
	s.passing.Wait()
	return nil
}

// stop ends all watches.
func (s *watchStream) stop() {
	s.mu.Lock()
	s.over = true
	all := s.watches
	s.watches, s.stirred = map[uint64]*streamed{}, nil
	s.mu.Unlock()
	for _, x := range all {
		x.end()
	}
	s.stir(nil) // so that serve sees it
}

func (s *watchStream) serve(poke <-chan struct{}) {
	minute := s.g.clock.NewTicker(watchcache.BookmarkInterval)
	defer minute.Stop()
	for {
		var err error
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-poke:
			s.stirIf(func(x *streamed) bool { return x.own })
		case <-minute.C():
			err = s.tick()
		}
		if err != nil || s.tell() != nil {
			return
		}
		if s.isOver() {
			return
		}
	}
}

func (s *watchStream) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// stir has a watch looked at soon.
func (s *watchStream) stir(x *streamed) {
	if x != nil {
		s.mu.Lock()
		known := s.watches[x.number] == x && !x.stirs
		if known {
			x.stirs = true
			s.stirred = append(s.stirred, x)
		}
		s.mu.Unlock()
		if !known {
			return
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *watchStream) stirIf(chosen func(*streamed) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.watches {
		if x.watch != nil && !x.stirs && chosen(x) {
			x.stirs = true
			s.stirred = append(s.stirred, x)
		}
	}
}

// tell writes what happened to the watches that were stirred. The error is that
// of the stream.
func (s *watchStream) tell() error {
	wrote := false
	for {
		s.mu.Lock()
		if len(s.stirred) == 0 {
			s.stirred = nil
			s.mu.Unlock()
			break
		}
		x := s.stirred[0]
		s.stirred = s.stirred[1:]
		x.stirs = false
		s.mu.Unlock()
		more, over, err := s.next(x)
		if err != nil {
			return err
		}
		wrote = wrote || more
		if over {
			if err := s.finish(x); err != nil {
				return err
			}
		}
	}
	if !wrote {
		return nil
	}
	return s.flush()
}

func (s *watchStream) next(x *streamed) (wrote, over bool, err error) {
	w := frames{s, x.number}
	if x.over.Load() {
		return true, true, nil
	}
	if !x.begun {
		x.begun, wrote = true, true
		if err := x.watch.Begin(w); err != nil {
			return false, false, err
		}
	}
	more, over, err := x.watch.Next(w)
	return wrote || more, over, err
}

// tick is what has its time: bookmarks, and the end of watches.
func (s *watchStream) tick() error {
	now := s.g.clock.Now()
	s.mu.Lock()
	all := make([]*streamed, 0, len(s.watches))
	for _, x := range s.watches {
		if x.watch != nil && x.begun {
			all = append(all, x)
		}
	}
	s.mu.Unlock()
	wrote := false
	for _, x := range all {
		more, err := x.watch.Bookmark(frames{s, x.number})
		if err == nil && !now.Before(x.until) {
			more, err = true, s.finish(x)
		}
		if err != nil {
			return err
		}
		wrote = wrote || more
	}
	if !wrote {
		return nil
	}
	return s.flush()
}

// finish tells that a watch has ended, unless it is gone already.
func (s *watchStream) finish(x *streamed) error {
	if !s.remove(x) {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return watchstream.Write(s.w, x.number, nil)
}

// remove is false for a watch that is gone already.
func (s *watchStream) remove(x *streamed) bool {
	s.mu.Lock()
	known := s.watches[x.number] == x
	if known {
		delete(s.watches, x.number)
	}
	s.mu.Unlock()
	if known {
		x.end()
	}
	return known
}

func (s *watchStream) flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return http.NewResponseController(s.w).Flush()
}

// frames writes a watch's part of the stream.
type frames struct {
	s      *watchStream
	number uint64
}

func (f frames) Write(data []byte) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	f.s.writing.Lock()
	defer f.s.writing.Unlock()
	return len(data), watchstream.Write(f.s.w, f.number, data)
}

// endWatch forgets a watch that the cell wants to hear no more of.
func (g *Gateway) endWatch(cell Cell, body []byte, w http.ResponseWriter, _ *http.Request) error {
	var named watchstream.Watch
	if strict, err := kjson.UnmarshalStrict(body, &named); err != nil || len(strict) > 0 {
		return invalid("it names no watch")
	}
	if s := g.cell(cell.Name).openStream(named.Stream); s != nil {
		s.mu.Lock()
		x := s.watches[named.Number]
		s.mu.Unlock()
		if x != nil {
			s.remove(x)
		}
	}
	writeSuccess(w)
	return nil
}

// openStream returns the cell's stream if it is the one of that name.
func (c *cellState) openStream(id uint64) *watchStream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream == nil || c.stream.id != id {
		return nil
	}
	return c.stream
}

// toStream finds out where the events of a watch are to come.
func (c *call) toStream() error {
	value := c.r.Header.Get(watchstream.Header)
	if value == "" || c.req.verb != "watch" {
		return nil
	}
	named, err := watchstream.Parse(value)
	if err != nil || named.Number == 0 {
		return invalid("the header %s names no watch", watchstream.Header)
	}
	if c.stream = c.openStream(named.Stream); c.stream == nil {
		return errNoStream()
	}
	c.number, c.ctx = named.Number, c.stream.ctx
	return nil
}

func errNoStream() error { return unavailable("there is no such stream any more") }

// stand makes a watch one of the stream, and answers that it is. It counts as a
// request under way as long as it stands.
func (c *call) stand(x *streamed) error {
	s, state, resource := c.stream, c.cellState, c.req.resource.Resource
	x.number = c.number
	cancel := x.end
	x.end = func() {
		cancel()
		state.inFlight.Add(-1)
		s.g.metrics.watches.WithLabelValues(resource).Dec()
	}
	state.inFlight.Add(1)
	s.g.metrics.watches.WithLabelValues(resource).Inc()
	s.mu.Lock()
	var err error
	switch {
	case s.over:
		err = errNoStream()
	case s.watches[x.number] != nil:
		err = apierrors.NewBadRequest("there is a watch of this number")
	default:
		s.watches[x.number] = x
		if x.watch == nil {
			s.passing.Add(1) // before stop, or not at all
		}
	}
	s.mu.Unlock()
	if err != nil {
		x.end()
		return err
	}
	c.w.Header().Set("Content-Type", mediaTypeJSON)
	c.w.Header().Set(watchstream.Header, watchstream.Watch{Stream: s.id, Number: x.number}.String())
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// standing makes a watch of Kip's memory one of the stream.
func (c *call) standing(watch *watchcache.Watch, src watchcache.Source, timeout time.Duration, own bool) error {
	x := &streamed{watch: watch, own: own, until: c.g.clock.Now().Add(timeout)}
	stream := c.stream
	unsubscribe, ended := src.Subscribe(func() { stream.stir(x) }), c.ended
	x.end = func() {
		unsubscribe()
		if ended != nil {
			ended()
		}
	}
	if err := c.stand(x); err != nil {
		return err
	}
	if c.ctx != stream.ctx {
		context.AfterFunc(c.ctx, func() { x.over.Store(true); stream.stir(x) })
	}
	stream.stir(x)
	return nil
}

// streamForwarded makes a watch that the API server answers one of the stream.
// The context ends with the stream, with the pod, and with done.
func (c *call) streamForwarded(ctx context.Context, done func(), request upstreamRequest) error {
	resp, err := c.send(ctx, request) //nolint:bodyclose // passing events on closes it
	if err != nil {
		done()
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), mediaTypeJSON) {
		defer done()
		defer resp.Body.Close()
		return c.passOn(resp, false)
	}
	s, x := c.stream, &streamed{end: done}
	if err := c.stand(x); err != nil {
		resp.Body.Close()
		return err
	}
	events := io.Reader(resp.Body)
	if c.filter != nil {
		events = c.filter(events)
	}
	go func() {
		defer s.passing.Done()
		defer resp.Body.Close()
		passEvents(frames{s, x.number}, s.flush, events)
		if s.finish(x) == nil {
			_ = s.flush()
		}
	}()
	return nil
}
