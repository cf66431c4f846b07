package watchcache

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

// serveWatch answers a watch for an hour.
func serveWatch(ctx context.Context, w http.ResponseWriter, src Source, o WatchOptions) error {
	x, err := NewWatch(src, o)
	if err == nil {
		x.Serve(ctx, w, time.Hour, clock.RealClock{}, nil)
	}
	return err
}

func TestServeWatch(t *testing.T) {
	pod := func(phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "1"}, Status: corev1.PodStatus{Phase: phase}}
	}
	synctest.Test(t, func(t *testing.T) {
		s := NewSingle(corev1.SchemeGroupVersion.WithKind("Pod"), NewVersions(time.Now()))
		w := httptest.NewRecorder()
		done := make(chan error)
		go func() {
			done <- serveWatch(t.Context(), w, s, WatchOptions{InitialEvents: true, InitialEventsEnd: true, Bookmarks: true})
		}()
		synctest.Wait()
		for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning} {
			if _, err := s.Set("web", "1", pod(phase)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		s.Clear()
		start := time.Now()
		if err := <-done; err != nil || time.Since(start) != time.Hour {
			t.Errorf("the watch ended with %v after %v", err, time.Since(start))
		}
		var types []string
		for line := range strings.Lines(w.Body.String()) {
			types = append(types, strings.Split(line, `"`)[3])
		}
		if got := strings.Join(types, " "); got != "BOOKMARK ADDED MODIFIED DELETED" {
			t.Errorf("got %s", got)
		}
	})
}

// TestServeWatchFallsBehind: a watch that cannot be told all is ended with an
// error that makes its client list again.
func TestServeWatchFallsBehind(t *testing.T) {
	c := newServices(2)
	replace(t, c)
	w := &blockingWriter{ResponseRecorder: httptest.NewRecorder(), gate: make(chan struct{})}
	done := make(chan error)
	go func() {
		done <- serveWatch(t.Context(), w, c, WatchOptions{})
	}()
	w.gate <- struct{}{} // the headers
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if err := c.Add(service(name, "10.0.0.1", nil)); err != nil {
			t.Fatal(err)
		}
	}
	close(w.gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if body := w.Body.String(); !strings.Contains(body, `"type":"ERROR"`) || !strings.Contains(body, `"code":410`) {
		t.Errorf("got %s", body)
	}
	if _, err := NewWatch(c, WatchOptions{From: 1}); !errors.Is(err, ErrExpired) {
		t.Errorf("a version of long ago: %v, want ErrExpired", err)
	}
}

// blockingWriter lets a watch flush only when the test lets it.
type blockingWriter struct {
	*httptest.ResponseRecorder
	gate chan struct{}
}

func (w *blockingWriter) Flush() { <-w.gate }

// BenchmarkFiveThousandWatches measures what one change costs when every cell
// of a large cluster watches.
func BenchmarkFiveThousandWatches(b *testing.B) {
	const watches = 5000
	c := newServices(DefaultHistory)
	if err := c.Replace(nil, ""); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	w := &discard{}
	for range watches {
		wg.Go(func() {
			_ = serveWatch(ctx, w, c, WatchOptions{})
		})
	}
	for w.flushed.Load() < watches {
		time.Sleep(time.Millisecond)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		w.written.Store(0)
		s := service("a", "10.0.0.1", map[string]string{"i": time.Duration(i).String()})
		if err := c.Add(s); err != nil {
			b.Fatal(err)
		}
		for w.written.Load() < watches {
			time.Sleep(100 * time.Microsecond)
		}
	}
	b.StopTimer()
	cancel()
	wg.Wait()
}

// discard counts what many watches write.
type discard struct{ written, flushed atomic.Int64 }

func (*discard) Header() http.Header              { return http.Header{} }
func (*discard) WriteHeader(int)                  {}
func (d *discard) Write(data []byte) (int, error) { d.written.Add(1); return len(data), nil }
func (d *discard) Flush()                         { d.flushed.Add(1) }
