package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// key is a name of a spec that is short enough for a file.
func (s Spec) key() string {
	sum := sha256.Sum256([]byte(s.Name))
	return hex.EncodeToString(sum[:6])
}

// folder holds what a spec wrote, and its result.
func (s Suite) folder(spec Spec) string { return filepath.Join(s.Dir, "specs", spec.key()) }

// Result returns a spec's recorded result; false if it has none.
func (s Suite) Result(spec Spec) (Result, bool, error) {
	data, err := os.ReadFile(filepath.Join(s.folder(spec), "result.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Result{}, false, nil
	}
	if err != nil {
		return Result{}, false, err
	}
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return Result{}, false, fmt.Errorf("reading the result of %q: %w", spec.Name, err)
	}
	return r, true, nil
}

// record keeps a result. It is whole or not there.
func (s Suite) record(spec Spec, r Result) error {
	r.Kip = s.Kip
	if last, ran, err := s.Result(spec); err != nil {
		return err
	} else if ran {
		r.Failures = last.Failures
		if last.State == Failed {
			r.Failures++
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.folder(spec), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.folder(spec), "log"), []byte(r.log+"\n"+r.Message+"\n"), 0o644); err != nil {
		return err
	}
	path := filepath.Join(s.folder(spec), "result.json")
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// batchSize is how many short specs a process runs. More are fewer processes,
// but at the end of a run one worker after the other waits for the last.
const batchSize = 4

// longTime is what a long spec takes, about.
const longTime = 5 * time.Minute

// RunAll runs specs, up to parallel at a time and serial ones alone, after the
// others. It records each result and tells done of it. Once until is over it
// begins no further spec, and no long one a while before.
func (s Suite) RunAll(ctx context.Context, specs []Spec, parallel int, until time.Time, done func(Spec, Result)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// By a hash, so that a run that is cut short has seen something of everything.
	specs = slices.Clone(specs)
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.key(), b.key()) })
	var short, long, longer, alone []Spec
	for _, spec := range specs {
		switch {
		case spec.Serial:
			alone = append(alone, spec)
		case longest.MatchString(spec.Name):
			longer = append(longer, spec)
		case spec.Long:
			long = append(long, spec)
		default:
			short = append(short, spec)
		}
	}
	long = append(longer, long...)
	r := runner{Suite: s, cancel: cancel, done: done}
	// Long specs wait while short ones use the processors. Once those are done
	// their places are for long ones too.
	forLong := min(len(long), (parallel+1)/2)
	forShort := max(1, parallel-forLong)
	longs := r.batches(ctx, long, 1, earlier(until, longTime))
	shorts := r.batches(ctx, short, max(1, min(batchSize, len(short)/forShort)), until)
	r.work(ctx, forLong, longs)
	r.work(ctx, forShort, shorts, longs)
	r.workers.Wait()
	r.work(ctx, 1, r.batches(ctx, alone, 1, until))
	r.workers.Wait()
	return context.Cause(ctx)
}

// earlier is a moment before until, but not one that is over already.
func earlier(until time.Time, by time.Duration) time.Time {
	if until.IsZero() {
		return until
	}
	if t := until.Add(-by); t.After(time.Now()) {
		return t
	}
	return until
}

// A runner is one call of RunAll.
type runner struct {
	Suite
	workers sync.WaitGroup
	cancel  context.CancelCauseFunc
	mu      sync.Mutex // for what follows
	done    func(Spec, Result)
}

// batches hands out specs, size at a time, until they are all taken, the time
// is over or ctx ends.
func (r *runner) batches(ctx context.Context, specs []Spec, size int, until time.Time) <-chan []Spec {
	next := make(chan []Spec)
	r.workers.Go(func() {
		defer close(next)
		for batch := range slices.Chunk(specs, size) {
			if !until.IsZero() && time.Now().After(until) {
				return
			}
			select {
			case next <- batch:
			case <-ctx.Done():
				return
			}
		}
	})
	return next
}

// work begins to run what comes from sources, one after the other, in so many
// places at a time.
func (r *runner) work(ctx context.Context, places int, sources ...<-chan []Spec) {
	for range places {
		r.workers.Go(func() {
			for _, source := range sources {
				for batch := range source {
					if err := r.finish(ctx, batch); err != nil {
						r.cancel(err)
						return
					}
				}
			}
		})
	}
}

// finish runs a batch and records what came of it.
func (r *runner) finish(ctx context.Context, batch []Spec) error {
	results, err := r.RunBatch(ctx, batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, result := range results {
		spec := newSpec(result.Name)
		if err := r.record(spec, result); err != nil {
			return err
		}
		r.done(spec, result)
	}
	return err
}

// Log is what a spec wrote when it ran last.
func (s Suite) Log(spec Spec) (string, error) {
	data, err := os.ReadFile(filepath.Join(s.folder(spec), "log"))
	return string(data), err
}
