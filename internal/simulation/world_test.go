package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/elotl/kip/v2/internal/podlogs"
)

const nodeName = "kip-provider-0"

// errKilled is what a dead Kip's calls return. Nobody reads it.
var errKilled = errors.New("killed")

// world is everything but Kip, and the Kips in it.
type world struct {
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	began time.Time

	api      *apiServer
	cloud    *cloud
	logs     *podlogs.Store
	machines map[string]*machine // by instance
	dialers  []*waiting
	users    *users
	kips     []*kip // all there ever were
	plan     plan
	check    *checker

	mu      sync.Mutex
	parked  []*step
	arrived chan struct{}

	// calm: nothing goes wrong any more.
	calm bool
	// apiBack and cloudBack are when those that are away come back.
	apiBack, cloudBack time.Time
	// starting: a Kip is about to.
	starting bool
	// several: two Kips ran at once.
	several bool

	steps int
	trace history
}

// step is something that happens when the loop picks it.
type step struct {
	// name says who does what; it tells steps that are ready at once apart.
	name string
	due  time.Time
	// do is run by the loop. It may put the step off by giving it another due
	// and returning true.
	do func() (again bool)
	// of is the Kip whose step it is, nil for the world's own.
	of *kip
}

func newWorld(t *testing.T, seed uint64, logs *podlogs.Store) *world {
	w := &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), logs: logs,
		machines: map[string]*machine{}, arrived: make(chan struct{}, 1),
	}
	w.trace.hash = fnv.New64a()
	w.check = newChecker(w)
	w.api = newAPIServer(w)
	w.cloud = newCloud(w)
	w.users = &users{world: w}
	return w
}

// at has something happen at a time. It may be called by anybody.
func (w *world) at(when time.Time, of *kip, name string, do func() (again bool)) {
	w.mu.Lock()
	w.parked = append(w.parked, &step{name: name, due: when, do: do, of: of})
	w.mu.Unlock()
	select {
	case w.arrived <- struct{}{}:
	default:
	}
}

// after has something happen in a while.
func (w *world) after(d time.Duration, name string, do func()) {
	w.at(time.Now().Add(d), nil, name, func() bool { do(); return false })
}

// every has something happen again and again.
func (w *world) every(d time.Duration, name string, do func()) {
	w.after(d, name, func() { do(); w.every(d, name, do) })
}

// run lets everything happen that is due before a time.
func (w *world) run(until time.Time) {
	for {
		synctest.Wait()
		if s := w.pick(); s != nil {
			w.steps++
			if s.do() {
				w.mu.Lock()
				w.parked = append(w.parked, s)
				w.mu.Unlock()
			}
			continue
		}
		now := time.Now()
		if !now.Before(until) {
			return
		}
		next := until
		w.mu.Lock()
		for _, s := range w.parked {
			if due := s.from(); due.Before(next) {
				next = due
			}
		}
		select {
		case <-w.arrived: // of a step that is among them
		default:
		}
		w.mu.Unlock()
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-timer.C:
		case <-w.arrived:
			timer.Stop()
		}
	}
}

// from is when the step can happen.
func (s *step) from() time.Time {
	if s.of != nil && s.of.frozen.After(s.due) {
		return s.of.frozen
	}
	return s.due
}

// pick takes one of the steps that are due. Which one is up to the seed, not to
// the order in which they came.
func (w *world) pick() *step {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	var ready []*step
	for _, s := range w.parked {
		if !s.from().After(now) {
			ready = append(ready, s)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	s := ready[0]
	if len(ready) > 1 {
		slices.SortStableFunc(ready, func(a, b *step) int { return cmp.Compare(a.name, b.name) })
		s = ready[w.rand.IntN(len(ready))]
	}
	i := slices.Index(w.parked, s)
	w.parked[i] = w.parked[len(w.parked)-1]
	w.parked = w.parked[:len(w.parked)-1]
	return s
}

// chance is true with a probability.
func (w *world) chance(p float64) bool { return p > 0 && w.rand.Float64() < p }

// between is a random time.
func (w *world) between(least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return least + time.Duration(w.rand.Int64N(int64(most-least)/int64(time.Millisecond)+1))*time.Millisecond
}

// ask is one call of a Kip to the outside: effect is what it does there, run by
// the loop, and never touches what belongs to the caller. Between the call, its
// effect and its answer time passes and things happen.
func ask[T any](ctx context.Context, k *kip, name string, kind callKind, effect func() (T, error)) (T, error) {
	var none T
	if k.isDead() {
		return none, errKilled
	}
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	var got answer
	var f fate
	stage := 0
	w := k.world
	s := &step{name: fmt.Sprintf("kip%d %s", k.number, name), due: time.Now(), of: k}
	s.do = func() bool {
		if stage == 0 {
			stage = 1
			f = w.fateOf(k, kind, name)
			if f.kill == before {
				w.tell("%s: killed before", s.name)
				k.kill()
				return false
			}
			if f.hold > 0 {
				s.due = time.Now().Add(f.hold)
				return true
			}
		}
		if stage == 1 {
			stage = 2
			switch {
			case f.err != nil:
				got.err = f.err
			case k.isDead() && kind != toCloud:
				// The connection broke with the process before the request was whole.
				return false
			default:
				got.value, got.err = effect()
			}
			w.tell("%s: %v%s", s.name, outcome(got.err), f.word())
			if kind == toAPI && (apierrors.IsConflict(got.err) || apierrors.IsAlreadyExists(got.err)) {
				w.check.inVain(s.name)
			}
			if f.lost != nil {
				got.value, got.err = none, f.lost
			}
			if f.kill == after {
				k.kill()
				return false
			}
			if f.late > 0 {
				s.due = time.Now().Add(f.late)
				return true
			}
		}
		answered <- got
		return false
	}
	w.mu.Lock()
	w.parked = append(w.parked, s)
	w.mu.Unlock()
	select {
	case w.arrived <- struct{}{}:
	default:
	}
	select {
	case a := <-answered:
		return a.value, a.err
	case <-k.gone:
		return none, errKilled
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// history is what happened. The hash is of all of it, so that two runs can be
// compared without keeping either.
type history struct {
	hash interface {
		Write([]byte) (int, error)
		Sum64() uint64
	}
	lines []string
	keep  bool
	print bool
}

func (w *world) tell(format string, args ...any) {
	line := fmt.Sprintf("%10.3f ", time.Since(w.began).Seconds()) + fmt.Sprintf(format, args...)
	_, _ = w.trace.hash.Write([]byte(line))
	if w.trace.keep {
		w.trace.lines = append(w.trace.lines, line)
	}
	if w.trace.print {
		fmt.Println(line)
	}
}
