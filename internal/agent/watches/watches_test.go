package watches

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/watchstream"
)

// kip answers an agent by script.
type kip struct {
	t   *testing.T
	url *url.URL
	// stream answers who asks for a stream; nil means with one, to which frames
	// are then written.
	stream http.HandlerFunc
	frames chan frame

	mu    sync.Mutex
	asked []string
	ended []watchstream.Watch
}

type frame struct {
	number uint64
	data   []byte
}

func newKip(t *testing.T) *kip {
	t.Helper()
	k := &kip{t: t, frames: make(chan frame)}
	server := httptest.NewServer(k)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	var err error
	if k.url, err = url.Parse(server.URL); err != nil {
		t.Fatal(err)
	}
	return k
}

// agent is a Transport to this Kip.
func (k *kip) agent() *Transport {
	a := New(roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = k.url.Scheme, k.url.Host
		return http.DefaultTransport.RoundTrip(out)
	}), slog.New(slog.DiscardHandler))
	k.t.Cleanup(a.Close)
	return a
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (k *kip) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.asked = append(k.asked, r.Method+" "+r.URL.Path)
	k.mu.Unlock()
	switch r.URL.Path {
	case watchstream.Path:
		if k.stream != nil {
			k.stream(w, r)
			return
		}
		w.Header().Set(watchstream.Header, "7/0")
		for {
			w.(http.Flusher).Flush()
			select {
			case f, ok := <-k.frames:
				if !ok || watchstream.Write(w, f.number, f.data) != nil {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	case watchstream.EndPath:
		var named watchstream.Watch
		if err := json.NewDecoder(r.Body).Decode(&named); err != nil {
			k.t.Error(err)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended = append(k.ended, named)
	default:
		if name := r.Header.Get(watchstream.Header); name != "" && k.stream == nil {
			w.Header().Set(watchstream.Header, name)
			return
		}
		_, _ = io.WriteString(w, "the answer itself")
	}
}

func (k *kip) wasAsked(what string) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, asked := range k.asked {
		if asked == what {
			n++
		}
	}
	return n
}

// get sends a request; the test's end ends it.
func get(ctx context.Context, t *testing.T, a *Transport, query string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kip/api/v1/pods?"+query, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestStreamCarriesWatches(t *testing.T) {
	k := newKip(t)
	a := k.agent()
	first, second := get(t.Context(), t, a, "watch=true"), get(t.Context(), t, a, "fieldSelector=a%3Db&watch=1")
	if first.ContentLength != -1 || first.Header.Get(watchstream.Header) != "" {
		t.Errorf("the client is told of the stream: %d %v", first.ContentLength, first.Header)
	}
	for _, f := range []frame{{2, []byte("two")}, {9, []byte("nobody's")}, {1, []byte("one")}, {2, nil}, {2, []byte("too late")}, {1, []byte(" and more")}, {1, nil}} {
		k.frames <- f
	}
	for resp, want := range map[*http.Response]string{first: "one and more", second: "two"} {
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	if n := k.wasAsked("POST " + watchstream.Path); n != 1 {
		t.Errorf("Kip was asked for %d streams, want one", n)
	}
	if len(k.ended) != 0 {
		t.Errorf("Kip is told of the end of watches that it ended: %v", k.ended)
	}
	if got, err := io.ReadAll(get(t.Context(), t, a, "watch=false").Body); err != nil || string(got) != "the answer itself" {
		t.Errorf("a list: read %q, %v", got, err)
	}
}

// TestKipWithoutStreams: an older Kip serves each watch by itself, and is asked
// about streams once.
func TestKipWithoutStreams(t *testing.T) {
	k := newKip(t)
	k.stream = http.NotFound
	a := k.agent()
	for range 3 {
		if got, err := io.ReadAll(get(t.Context(), t, a, "watch=true").Body); err != nil || string(got) != "the answer itself" {
			t.Errorf("read %q, %v", got, err)
		}
	}
	if n := k.wasAsked("POST " + watchstream.Path); n != 1 {
		t.Errorf("Kip was asked for %d streams, want one", n)
	}
}

// TestKipIsNotReady: that is the answer to the watch, whose client will ask
// again; another way would not lead to another Kip.
func TestKipIsNotReady(t *testing.T) {
	k := newKip(t)
	k.stream = func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "come again", http.StatusServiceUnavailable)
	}
	resp := get(t.Context(), t, k.agent(), "watch=true")
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusServiceUnavailable || string(text) != "come again\n" {
		t.Errorf("got %s %q, %v", resp.Status, text, err)
	}
}

func TestWhoDoesNotReadLosesItsWatch(t *testing.T) {
	k := newKip(t)
	a := k.agent()
	sleeper, reader := get(t.Context(), t, a, "watch=true"), get(t.Context(), t, a, "watch=true")
	block := bytes.Repeat([]byte("x"), 1<<20)
	for range maxBehind>>20 + 2 {
		k.frames <- frame{1, block}
	}
	k.frames <- frame{2, []byte("news")}
	k.frames <- frame{2, nil}
	if got, err := io.ReadAll(reader.Body); err != nil || string(got) != "news" {
		t.Errorf("another watch: read %q, %v", got, err)
	}
	if _, err := io.Copy(io.Discard, sleeper.Body); !errors.Is(err, errBehind) {
		t.Errorf("the watch that was not read ended with %v", err)
	}
	k.awaitEnd(watchstream.Watch{Stream: 7, Number: 1})
}

func (k *kip) awaitEnd(want watchstream.Watch) {
	k.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		told := slices.Contains(k.ended, want)
		k.mu.Unlock()
		if told {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("Kip was not told that %v is over", want)
		}
	}
}

// TestClientHangsUp: what it was blocked in ends, and Kip is told.
func TestClientHangsUp(t *testing.T) {
	k := newKip(t)
	a := k.agent()
	ctx, cancel := context.WithCancel(t.Context())
	resp := get(ctx, t, a, "watch=true")
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("reading ended with %v", err)
	}
	k.awaitEnd(watchstream.Watch{Stream: 7, Number: 1})
}

func TestStreamIsLost(t *testing.T) {
	for name, lose := range map[string]func(*kip, *Transport){
		"Kip ends it":    func(k *kip, _ *Transport) { close(k.frames) },
		"the agent ends": func(_ *kip, a *Transport) { a.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKip(t)
			a := k.agent()
			resp := get(t.Context(), t, a, "watch=true")
			k.frames <- frame{1, []byte("some")}
			got := make([]byte, 4)
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "some" {
				t.Fatalf("read %q, %v", got, err)
			}
			lose(k, a)
			if got, err := io.ReadAll(resp.Body); err == nil || len(got) > 0 {
				t.Errorf("read %q, %v; want an error", got, err)
			}
		})
	}
}
