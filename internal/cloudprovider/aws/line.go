package aws

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

const (
	// heldFor is how long a launch may wait within a call. What has to wait
	// longer is sent away with the time to come back: a lifecycle worker is for
	// those whose turn it is.
	heldFor = time.Second
	// awayFor is the longest time that a cell is sent away for. The rate may
	// rise meanwhile, or those before it may give up.
	awayFor = 30 * time.Second
	// lateBy: who does not come back in time loses its place, so that cells
	// that were deleted do not hold up the others.
	lateBy = 15 * time.Second
	// nextWithin: whose launch was refused tries its next offering at once, or
	// has none.
	nextWithin = 2 * time.Second
	// turnFor is how long a turn may be used: as long as it takes to write down
	// what is going to be launched.
	turnFor = 30 * time.Second
)

// line is where cells wait for RunInstances, first come, first served. A cell
// keeps its place while it is away, and whose launch was refused for a reason
// that another call may not meet goes before all others: it waited already.
type line struct {
	clock     clock.Clock
	pace      *pace
	instances *rate.Limiter // EC2's second bucket, as Kip counts it

	mu sync.Mutex
	// beyond is how many launches that bucket had no room for, until bounded:
	// EC2 refused one of them.
	beyond  int
	bounded bool
	waiting []place
	turns   map[types.UID]time.Time // given and not used yet
}

type place struct {
	cell  types.UID
	again bool      // it had its turn before
	until time.Time // when the place is lost
}

func newLine(clk clock.Clock) *line {
	return &line{
		clock: clk, pace: newPace(clk, allowances["RunInstances"], fastest),
		instances: rate.NewLimiter(launchedAtOnce.refill, launchedAtOnce.burst), turns: map[types.UID]time.Time{},
	}
}

// turn waits a moment for the cell's turn. The error is Throttled and says
// when to come back.
func (l *line) turn(ctx context.Context, cell types.UID) error {
	until := l.clock.Now().Add(heldFor)
	for {
		wait := l.ask(cell)
		switch {
		case wait == 0:
			return nil
		case l.clock.Now().Add(wait).After(until):
			return &cloudprovider.Error{Kind: cloudprovider.Throttled, Action: actionRun, RetryAfter: wait,
				Message: "EC2 takes only so many launches at a time, and Kip asks for no more"}
		}
		if err := sleep(ctx, l.clock, wait); err != nil {
			return err
		}
	}
}

// ask gives the cell its turn, or says when it may come.
func (l *line) ask(cell types.UID) (wait time.Duration) {
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tidy(now)
	if _, given := l.turns[cell]; given {
		return 0
	}
	i := slices.IndexFunc(l.waiting, func(p place) bool { return p.cell == cell })
	if i < 0 {
		i = len(l.waiting)
		l.waiting = append(l.waiting, place{cell: cell})
	}
	wait, ok := l.pace.take(i)
	if !ok {
		wait = min(wait, awayFor)
		l.waiting[i].until = now.Add(wait + lateBy)
		return wait
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.turns[cell] = now
	if !l.instances.AllowN(now, 1) {
		l.exceed()
	}
	return 0
}

// exceed is for a launch more than EC2 documents. Whether the account has that
// bucket shows when it is empty: the rate falls to its refill, once, and for
// good when EC2 refuses one of the launches that follow.
func (l *line) exceed() {
	if l.bounded || l.beyond == 0 {
		l.pace.atMost(launchedAtOnce.refill)
	}
	l.beyond++
}

// tidy forgets whom nobody asked for any more.
func (l *line) tidy(now time.Time) {
	l.waiting = slices.DeleteFunc(l.waiting, func(p place) bool { return now.After(p.until) })
	for cell, given := range l.turns {
		if now.Sub(given) > turnFor {
			delete(l.turns, cell)
		}
	}
}

// use ends the cell's turn: the call is being made.
func (l *line) use(cell types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.turns, cell)
}

// refused is told what became of a cell's turn. It returns when the cell may
// come again, 0 if that is not for the line to say.
func (l *line) refused(cell types.UID, kind cloudprovider.Kind) (wait time.Duration) {
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	mine := place{cell: cell, again: true, until: now.Add(nextWithin)}
	l.waiting = slices.DeleteFunc(l.waiting, func(p place) bool { return p.cell == cell })
	i := slices.IndexFunc(l.waiting, func(p place) bool { return !p.again })
	if i < 0 {
		i = len(l.waiting)
	}
	switch kind {
	case cloudprovider.Throttled:
		if l.beyond > 0 && l.beyond < larger {
			l.bounded = true
		}
		wait = min(l.pace.wait(i), awayFor)
		mine.until = now.Add(wait + lateBy)
	case cloudprovider.InsufficientCapacity, cloudprovider.Unsupported, cloudprovider.SubnetFull,
		cloudprovider.QuotaExceeded, cloudprovider.VCPUQuotaExceeded:
	default:
		return 0
	}
	l.waiting = slices.Insert(l.waiting, i, mine)
	return wait
}

// comeAgain adds to the error of a refused launch when it may be repeated.
func (l *line) comeAgain(cell types.UID, err error) error {
	wait := l.refused(cell, cloudprovider.KindOf(err))
	if e, ok := errors.AsType[*cloudprovider.Error](err); ok {
		e.RetryAfter = wait
	}
	return err
}

// any says whether somebody waits.
func (l *line) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0
}

// sleep lets time pass, or returns the context's error.
func sleep(ctx context.Context, clk clock.Clock, d time.Duration) error {
	timer := clk.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
