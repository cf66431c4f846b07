// Package watches brings the watches of a cell's kubelet and kube-proxy to Kip
// on one stream (package watchstream). To them they are watches as ever.
//
// A watch is told apart by its query, and its answer is not looked into: the
// agent knows nothing of Kubernetes' objects. A Kip that knows no streams is
// asked for each watch by itself.
package watches

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/watchstream"
)

const (
	// askAgain is how long a Kip that knows no streams is not asked for one.
	askAgain = time.Minute
	// maxBehind is how much may wait for a client that does not read, in bytes.
	// It would hold up nobody but itself, and loses its watch.
	maxBehind = 16 << 20
	// maxRefusal is how much of an error is passed on, in bytes.
	maxRefusal = 64 << 10
	// endPatience bounds telling Kip that a watch is over.
	endPatience = 10 * time.Second
)

var (
	errBehind = errors.New("the watch's client does not keep up")
	errClosed = errors.New("the watch's client hung up")
)

// Transport is the way to Kip's gateway with all watches on one stream. Its
// methods may be called from any goroutine.
type Transport struct {
	next   http.RoundTripper
	logger *slog.Logger
	// ctx ends with Close, which waits for the tasks.
	ctx   context.Context //nolint:containedctx // the Transport is the life of the streams
	end   context.CancelFunc
	mu    sync.Mutex // no task begins once ctx has ended
	tasks sync.WaitGroup

	// turn holds a token while someone reads or writes the rest.
	turn    chan struct{}
	current *stream // may be over; may be nil
	notYet  time.Time
}

// New returns a Transport over the gateway. The caller closes it.
func New(gateway http.RoundTripper, logger *slog.Logger) *Transport {
	ctx, cancel := context.WithCancel(context.Background())
	return &Transport{next: gateway, logger: logger, ctx: ctx, end: cancel, turn: make(chan struct{}, 1)}
}

// Close ends all watches. When it returns no goroutine of the Transport's is
// left, nor will there be one.
func (t *Transport) Close() {
	t.mu.Lock()
	t.end()
	t.mu.Unlock()
	t.tasks.Wait()
}

// run runs a task, unless the Transport is closed.
func (t *Transport) run(task func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	t.tasks.Go(task)
	return true
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !isWatch(r) {
		return t.next.RoundTrip(r)
	}
	s, refusal, err := t.stream(r.Context())
	switch {
	case err != nil:
		return nil, err
	case refusal != nil:
		refusal.Request = r
		return refusal, nil
	case s == nil:
		return t.next.RoundTrip(r)
	}
	events, ok := s.open()
	if !ok {
		return nil, s.lost()
	}
	// What is asked for on this stream is of no use without it.
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := context.AfterFunc(s.over, func() { cancel(s.lost()) })
	out := r.Clone(ctx)
	name := watchstream.Watch{Stream: s.id, Number: events.number}.String()
	out.Header.Set(watchstream.Header, name)
	resp, err := t.next.RoundTrip(out)
	stop()
	if err != nil {
		cancel(nil)
		s.forget(events)
		return nil, err
	}
	if resp.Header.Get(watchstream.Header) != name {
		// It is refused, or no watch of the stream: the answer is the answer.
		s.forget(events)
		context.AfterFunc(r.Context(), func() { cancel(nil) })
		return resp, nil
	}
	_ = resp.Body.Close()
	cancel(nil)
	resp.Header.Del(watchstream.Header)
	resp.Header.Del("Content-Length")
	resp.ContentLength, resp.Body, resp.Request = -1, events, r
	context.AfterFunc(r.Context(), func() { events.hangUp(context.Cause(r.Context())) })
	return resp, nil
}

func isWatch(r *http.Request) bool {
	if r.Method != http.MethodGet || r.URL.RawQuery == "" {
		return false
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	return err == nil && (query.Get("watch") == "true" || query.Get("watch") == "1")
}

// stream returns the stream, made if need be; or what Kip answers instead; or
// neither if it knows no streams.
func (t *Transport) stream(ctx context.Context) (s *stream, refusal *http.Response, err error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	if t.current != nil && t.current.over.Err() == nil {
		return t.current, nil, nil
	}
	if time.Now().Before(t.notYet) {
		return nil, nil, nil
	}
	t.current, refusal, err = t.ask(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("asking Kip for a stream of watches: %w", err)
	}
	if t.current == nil && refusal == nil {
		t.logger.Info("this Kip has no stream of watches")
		t.notYet = time.Now().Add(askAgain)
	}
	return t.current, refusal, nil
}

// ask asks Kip for a stream. It outlives the watch that needs it first.
func (t *Transport) ask(ctx context.Context) (*stream, *http.Response, error) {
	lasting, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	impatient := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	closed := context.AfterFunc(t.ctx, func() { cancel(context.Canceled) })
	end := func() { impatient(); closed(); cancel(nil) }
	resp, err := t.next.RoundTrip(post(lasting, watchstream.Path, struct{}{}))
	if err != nil {
		end()
		return nil, nil, err
	}
	named, err := watchstream.Parse(resp.Header.Get(watchstream.Header))
	if err != nil || resp.StatusCode != http.StatusOK {
		defer end()
		defer resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode == http.StatusNotFound {
			return nil, nil, nil
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		resp.Body = io.NopCloser(bytes.NewReader(text))
		return nil, resp, err
	}
	over, lose := context.WithCancelCause(context.Background())
	s := &stream{t: t, id: named.Stream, over: over, lose: lose, watches: map[uint64]*events{}}
	reading := impatient() && t.run(func() {
		defer end()
		defer resp.Body.Close()
		s.read(resp.Body)
	})
	if !reading {
		end()
		_ = resp.Body.Close()
		return nil, nil, cmp.Or(context.Cause(ctx), context.Canceled)
	}
	return s, nil, nil
}

func post(ctx context.Context, path string, what any) *http.Request {
	body, err := json.Marshal(what)
	if err != nil {
		panic(err) // it is one of two types of this package's
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://kip"+path, bytes.NewReader(body))
	if err != nil {
		panic(err) // the path is a constant
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

// stream is one stream, of one connection to Kip.
type stream struct {
	t  *Transport
	id uint64
	// over ends with the stream, and lose says why.
	over context.Context //nolint:containedctx // it is the stream's life
	lose context.CancelCauseFunc

	mu      sync.Mutex
	last    uint64
	watches map[uint64]*events // nil when the stream is over
}

func (s *stream) lost() error { return context.Cause(s.over) }

// open numbers a new watch.
func (s *stream) open() (*events, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches == nil {
		return nil, false
	}
	s.last++
	e := &events{s: s, number: s.last}
	e.news.L = &e.mu
	s.watches[e.number] = e
	return e, true
}

// forget is false if the watch is forgotten already: it has ended.
func (s *stream) forget(e *events) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.watches[e.number]
	delete(s.watches, e.number)
	return known
}

// read hands out what comes until the stream ends.
func (s *stream) read(body io.Reader) {
	var err error
	for r := bufio.NewReader(body); ; {
		var number uint64
		var data []byte
		if number, data, err = watchstream.Read(r); err != nil {
			break
		}
		s.mu.Lock()
		e := s.watches[number]
		s.mu.Unlock()
		switch {
		case e == nil: // nobody wants to hear of it any more
		case len(data) > 0:
			e.add(data)
		case s.forget(e):
			e.finish(io.EOF)
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // none of the watches has ended
	}
	err = fmt.Errorf("the stream of watches was lost: %w", err)
	s.lose(err)
	s.mu.Lock()
	all := s.watches
	s.watches = nil
	s.mu.Unlock()
	for _, e := range all {
		e.finish(err)
	}
}

// events are the body of a watch's answer.
type events struct {
	s      *stream
	number uint64

	mu   sync.Mutex
	news sync.Cond
	data bytes.Buffer
	err  error // after data
}

func (e *events) add(data []byte) {
	e.mu.Lock()
	behind := e.err == nil && e.data.Len() > maxBehind
	if e.err == nil && !behind {
		e.data.Write(data)
	}
	e.news.Broadcast()
	e.mu.Unlock()
	if behind {
		e.hangUp(errBehind)
	}
}

func (e *events) finish(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
	e.news.Broadcast()
}

// Read implements io.Reader.
func (e *events) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.data.Len() == 0 && e.err == nil {
		e.news.Wait()
	}
	if e.data.Len() == 0 {
		e.data = bytes.Buffer{}
		return 0, e.err
	}
	n, _ := e.data.Read(p)
	if e.data.Len() == 0 && e.data.Cap() > 64<<10 {
		e.data = bytes.Buffer{} // the first answer may be long, what follows is not
	}
	return n, nil
}

// Close implements io.Closer.
func (e *events) Close() error {
	e.hangUp(errClosed)
	return nil
}

// hangUp ends the watch, and tells Kip.
func (e *events) hangUp(why error) {
	e.finish(why)
	if !e.s.forget(e) {
		return
	}
	t := e.s.t
	t.run(func() {
		ctx, cancel := context.WithTimeout(t.ctx, endPatience)
		defer cancel()
		stop := context.AfterFunc(e.s.over, cancel)
		defer stop()
		resp, err := t.next.RoundTrip(post(ctx, watchstream.EndPath, watchstream.Watch{Stream: e.s.id, Number: e.number}))
		if err == nil {
			_ = resp.Body.Close()
		}
	})
}
