package runs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Run is what is known of a run.
type Run struct {
	Pod
	ID string
	// First and Last are of the first and the last report, by the run's clock.
	First, Last time.Time
	// Done: its work was done. Told: it was told to end.
	Done, Told bool
}

func (r Run) String() string {
	how := "it was cut short"
	switch {
	case r.Done:
		how = "its work was done"
	case r.Told:
		how = "it was told to end"
	}
	return fmt.Sprintf("run %.6s of pod %s (UID %s) on %s, from %s to %s, then %s", r.ID, r.Name, r.UID, r.HostIP, clock(r.First), clock(r.Last), how)
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// Log takes reports, as an HTTP handler.
type Log struct {
	mu   sync.Mutex
	runs map[string]*Run
}

func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var report Report
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil || report.Run == "" {
		http.Error(w, "this is no report of a run", http.StatusBadRequest)
		return
	}
	l.add(report)
	w.WriteHeader(http.StatusNoContent)
}

func (l *Log) add(r Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs == nil {
		l.runs = map[string]*Run{}
	}
	run := l.runs[r.Run]
	if run == nil {
		run = &Run{Pod: r.Pod, ID: r.Run, First: r.At, Last: r.At}
		l.runs[r.Run] = run
	}
	// A report may have been repeated, and the first come last.
	if r.At.Before(run.First) {
		run.First = r.At
	}
	if r.At.After(run.Last) {
		run.Last = r.At
	}
	run.Done = run.Done || r.What == Done
	run.Told = run.Told || r.What == Told
}

// Runs are all that are known, in the order in which they began.
func (l *Log) Runs() []Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Run, 0, len(l.runs))
	for _, r := range l.runs {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b Run) int {
		if c := a.First.Compare(b.First); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Overlaps are the pairs of runs that were there at the same time and must not
// be: those for which key returns the same. Runs without a key may overlap.
func Overlaps(all []Run, key func(Run) string) (found []string) {
	last := map[string]Run{}
	for _, r := range all { // in the order in which they began
		k := key(r)
		if k == "" {
			continue
		}
		if before, ok := last[k]; ok && r.First.Before(before.Last) {
			found = append(found, fmt.Sprintf("two at once of %s: %s; and %s", k, before, r))
			if before.Last.After(r.Last) {
				continue
			}
		}
		last[k] = r
	}
	return found
}

// Repeated are the runs that began although the work of their key had been
// found to be complete, at the times that are given.
func Repeated(all []Run, key func(Run) string, complete map[string]time.Time) (found []string) {
	for _, r := range all {
		if at, ok := complete[key(r)]; ok && r.First.After(at) {
			found = append(found, fmt.Sprintf("%s was complete at %s, and then came %s", key(r), clock(at), r))
		}
	}
	return found
}
