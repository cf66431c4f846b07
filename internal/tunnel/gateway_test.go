package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
)

func newRequest(ctx context.Context, path string) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:6443"+path, nil)
}

func TestGateway(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		rw.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		rw.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintf(rw, "%s %s %s", r.Method, r.URL.RequestURI(), data)
	})
	startGateway(t, w.dialer, addr, h).wait(t)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch,
		"https://127.0.0.1:6443/api/v1/namespaces/a%2Fb/pods/x/status?fieldManager=kubelet", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	resp, err := s.Gateway().RoundTrip(req)
	got := body(t, resp, err)
	if want := "PATCH /api/v1/namespaces/a%2Fb/pods/x/status?fieldManager=kubelet {}"; got != want {
		t.Errorf("Kip got %q, want %q", got, want)
	}
	if resp.StatusCode != http.StatusConflict || resp.Header.Get("Content-Type") != "application/strategic-merge-patch+json" {
		t.Errorf("the answer has status %d and header %v", resp.StatusCode, resp.Header)
	}
	if req.URL.Host != "127.0.0.1:6443" || resp.Request != req {
		t.Error("the caller's request was changed")
	}
}

func TestGatewayWaitsForKip(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := get(ctx, s, "/")
	wantError(t, "The request's context bounds the wait.", err, context.DeadlineExceeded)

	var waiting errgroup.Group
	for range 20 {
		waiting.Go(func() error {
			resp, err := get(t.Context(), s, "/")
			if err == nil {
				err = resp.Body.Close()
			}
			return err
		})
	}
	time.Sleep(20 * time.Millisecond)
	startGateway(t, w.dialer, addr, says("x")).wait(t)
	if err := waiting.Wait(); err != nil {
		t.Errorf("requests that came before Kip: %v", err)
	}
}

// A kubelet holds a watch for each ConfigMap and Secret of its pod, for
// minutes, and must still get other requests through.
func TestGatewayManyWatches(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	release := make(chan struct{})
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "first event\n")
		rw.(http.Flusher).Flush()
		if r.URL.Query().Get("watch") != "" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	startGateway(t, w.dialer, addr, h).wait(t)
	const watches = maxStreams - 10
	var open errgroup.Group
	open.SetLimit(50)
	bodies := make([]io.ReadCloser, watches)
	for i := range watches {
		open.Go(func() error {
			resp, err := get(t.Context(), s, "/api/v1/pods?watch=1")
			if err != nil {
				return err
			}
			bodies[i] = resp.Body
			_, err = io.ReadFull(resp.Body, make([]byte, len("first event\n")))
			return err
		})
	}
	if err := open.Wait(); err != nil {
		t.Fatal(err)
	}
	resp, err := get(t.Context(), s, "/api/v1/services")
	if got := body(t, resp, err); got != "first event\n" {
		t.Errorf("a request beside %d watches: %q", watches, got)
	}
	close(release)
	for _, b := range bodies {
		_, _ = io.Copy(io.Discard, b)
		_ = b.Close()
	}
}

// watchHandler sends an event and then holds the watch open.
func watchHandler(name string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, name)
		rw.(http.Flusher).Flush()
		if r.URL.Path == "/watch" {
			<-r.Context().Done()
		}
	})
}

// A Kip that failed over dials while the old one still seems connected.
func TestNewestGatewayWins(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	first := startGateway(t, w.dialer, addr, watchHandler("first"))
	first.wait(t)
	resp, err := get(t.Context(), s, "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, len("first"))); err != nil {
		t.Fatal(err)
	}

	startGateway(t, w.dialer, addr, watchHandler("second")).wait(t)
	_, err = io.ReadAll(resp.Body)
	wantError(t, "What is under way on the old connection fails so that it can be sent again.", err, ErrGatewayLost)
	select {
	case err := <-first.ended:
		first.ended <- err
		wantError(t, "The old Kip learns it.", err, ErrLost)
	case <-time.After(5 * time.Second):
		t.Error("the old Kip still serves")
	}
	resp, err = get(t.Context(), s, "/")
	if got := body(t, resp, err); got != "second" {
		t.Errorf("the request went to %q", got)
	}
}

func TestGatewayLossAndReturn(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	for i := range 5 {
		name := fmt.Sprint("kip ", i)
		session := startGateway(t, w.dialer, addr, watchHandler(name))
		session.wait(t)
		resp, err := get(t.Context(), s, "/")
		if got := body(t, resp, err); got != name {
			t.Errorf("got %q, want %q", got, name)
		}
		watch, err := get(t.Context(), s, "/watch")
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, "It ends by its context.", session.stop(), context.Canceled)
		_, err = io.ReadAll(watch.Body)
		wantError(t, "A watch ends with the connection.", err, ErrGatewayLost)
		_ = watch.Body.Close()
	}
}

// ServeGateway returns only when none of its handlers runs.
func TestServeGatewayWaitsForHandlers(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	started, finished := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		time.Sleep(100 * time.Millisecond)
		close(finished)
	})
	session := startGateway(t, w.dialer, addr, h)
	session.wait(t)
	go func() { _, _ = get(t.Context(), s, "/") }()
	<-started
	_ = session.stop()
	select {
	case <-finished:
	default:
		t.Error("a handler still runs")
	}
}

// A request's own end is not the connection's.
func TestCancelledRequestKeepsConnection(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	startGateway(t, w.dialer, addr, watchHandler("x")).wait(t)
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := get(ctx, s, "/watch")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	wantError(t, "The client gave up.", err, context.Canceled)
	if errors.Is(err, ErrGatewayLost) {
		t.Error("the connection is said to be lost")
	}
	resp, err = get(t.Context(), s, "/")
	if got := body(t, resp, err); got != "x" {
		t.Errorf("got %q", got)
	}
}

func TestGatewayLargeBodies(t *testing.T) {
	w := newWorld(t)
	s, addr := w.enrolled(t)
	startGateway(t, w.dialer, addr, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(rw, r.Body)
	})).wait(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://x/", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Gateway().RoundTrip(req)
	if got := body(t, resp, err); got != string(sent) {
		t.Errorf("%d bytes came back, want the %d that were sent", len(got), len(sent))
	}
}

// pipeNetwork connects a Dialer and a Server in memory, so that time can be
// simulated, and can be cut without either end being told.
type pipeNetwork struct {
	accept chan net.Conn

	mu    sync.Mutex
	wires []*wire
}

func newPipeNetwork() *pipeNetwork { return &pipeNetwork{accept: make(chan net.Conn)} }

func (p *pipeNetwork) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	w := &wire{Conn: a, cut: make(chan struct{}), closed: make(chan struct{})}
	p.mu.Lock()
	p.wires = append(p.wires, w)
	p.mu.Unlock()
	select {
	case p.accept <- b:
		return w, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipeNetwork) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.wires {
		close(w.cut)
	}
	p.wires = nil
}

func (p *pipeNetwork) Accept() (net.Conn, error) {
	if c, ok := <-p.accept; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p *pipeNetwork) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.accept != nil {
		close(p.accept)
		p.accept = nil
	}
	return nil
}
func (p *pipeNetwork) Addr() net.Addr { return &net.TCPAddr{} }

// wire swallows what is written once it is cut, and lets nothing through.
type wire struct {
	net.Conn
	cut    chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (w *wire) isCut() bool {
	select {
	case <-w.cut:
		return true
	default:
		return false
	}
}

func (w *wire) Write(b []byte) (int, error) {
	if w.isCut() {
		return len(b), nil
	}
	return w.Conn.Write(b)
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if w.isCut() && err == nil {
		<-w.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	if w.isCut() {
		return nil // the other end hears nothing of it
	}
	return w.Conn.Close()
}

// A peer that vanishes without a word is noticed by both ends within 15 s and
// a little, while nothing happens on the connection.
func TestDeadPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldInBubble(t)
		network := newPipeNetwork()
		w.dialer = w.dialerFor(w.authority, DialerConfig{DialContext: network.dial})
		s, err := NewServer(w.config(&memoryStore{}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, network) }()
		if err := w.dialer.Enrol(ctx, "cell:6421", cellName, token, w.sign); err != nil {
			t.Fatal(err)
		}
		session := startGateway(t, w.dialer, "cell:6421", watchHandler("x"))
		session.wait(t)
		watch, err := get(ctx, s, "/watch")
		if err != nil {
			t.Fatal(err)
		}

		time.Sleep(time.Hour)
		select {
		case err := <-session.ended:
			t.Fatalf("a quiet connection ended: %v", err)
		default:
		}
		if since := time.Since(s.LastContact()); since > 0 {
			t.Errorf("Kip is connected, and last contact was %s ago", since)
		}

		cut := time.Now()
		network.cutAll()
		_, err = io.ReadAll(watch.Body)
		agentNoticed := time.Since(cut)
		_ = watch.Body.Close()
		wantError(t, "The kubelet's watch must not hang.", err, ErrGatewayLost)
		kip := <-session.ended
		session.ended <- kip
		kipNoticed := time.Since(cut)
		wantError(t, "Kip must dial again.", kip, ErrLost)
		const limit = 16 * time.Second
		if agentNoticed > limit || kipNoticed > limit {
			t.Errorf("the agent noticed after %s, Kip after %s, want at most %s", agentNoticed, kipNoticed, limit)
		}
		time.Sleep(time.Minute)
		if since := time.Since(s.LastContact()); since < time.Minute {
			t.Errorf("last contact was %s ago, want over a minute", since)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
