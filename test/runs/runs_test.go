package runs

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func run(id, name, uid string, first, last int) Run {
	return Run{Pod: Pod{Name: name, UID: uid}, ID: id, First: at(first), Last: at(last)}
}

func TestOverlaps(t *testing.T) {
	name := func(r Run) string { return r.Name }
	for n, c := range map[string]struct {
		reason string
		runs   []Run
		want   int
	}{
		"one after the other": {
			reason: "a successor that begins after the last sign of life is as it should be",
			runs:   []Run{run("a", "web-0", "1", 0, 10), run("b", "web-0", "2", 11, 20)},
		},
		"two at once": {
			reason: "the first was heard of after the second began",
			runs:   []Run{run("a", "web-0", "1", 0, 10), run("b", "web-0", "2", 9, 20)},
			want:   1,
		},
		"two names": {
			reason: "others may run beside it",
			runs:   []Run{run("a", "web-0", "1", 0, 10), run("b", "web-1", "2", 9, 20)},
		},
		"without a key": {
			reason: "these may overlap",
			runs:   []Run{run("a", "", "1", 0, 10), run("b", "", "2", 9, 20)},
		},
		"one within the other": {
			reason: "the first lasts beyond the second, into the third",
			runs:   []Run{run("a", "web-0", "1", 0, 30), run("b", "web-0", "2", 5, 10), run("c", "web-0", "3", 20, 40)},
			want:   2,
		},
	} {
		t.Run(n, func(t *testing.T) {
			if got := Overlaps(c.runs, name); len(got) != c.want {
				t.Errorf("%s: %d found, want %d: %q", c.reason, len(got), c.want, got)
			}
		})
	}
}

func TestRepeated(t *testing.T) {
	uid := func(r Run) string { return r.UID }
	all := []Run{run("a", "job-0", "0", 0, 10), run("b", "job-0", "0", 12, 20), run("c", "job-1", "1", 0, 10), run("d", "job-1", "1", 30, 31)}
	got := Repeated(all, uid, map[string]time.Time{"1": at(15), "0": at(25)})
	if len(got) != 1 || !strings.Contains(got[0], "run d") {
		t.Errorf("found %q, want the run that began when its work was complete", got)
	}
}

// A collector that is away keeps a run from beginning and from ending.
func TestWork(t *testing.T) {
	var log Log
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= 2 {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		log.ServeHTTP(w, r)
	}))
	defer server.Close()
	pod := Pod{Name: "job-0", UID: "1", HostIP: "10.0.0.1", Index: "0"}
	if err := Work(t.Context(), server.URL, pod, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Work(ctx, server.URL, pod, 0); !errors.Is(err, ErrTold) {
		t.Errorf("a run that was told to end: %v", err)
	}
	all := log.Runs()
	if len(all) != 2 {
		t.Fatalf("%d runs are on record: %v", len(all), all)
	}
	type end struct{ Done, Told bool }
	if diff := cmp.Diff([]end{{Done: true}, {Told: true}}, []end{{all[0].Done, all[0].Told}, {all[1].Done, all[1].Told}}); diff != "" {
		t.Errorf("how they ended (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(pod, all[0].Pod); diff != "" {
		t.Errorf("whose they are (-want +got)\n%s", diff)
	}
}

func TestLogRefusesWhatIsNoReport(t *testing.T) {
	var log Log
	for _, body := range []string{"", "{}", "no"} {
		w := httptest.NewRecorder()
		log.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		if w.Code != http.StatusBadRequest || len(log.Runs()) > 0 {
			t.Errorf("%q was answered with %d", body, w.Code)
		}
	}
}
