package connection

import (
	"errors"
	"hash/fnv"
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/tunnel"
)

const (
	// eagerWindow is for how long a cell is dialled many times a second: from
	// the moment it has an address, or was lost. Instances boot within it.
	eagerWindow = 3 * time.Minute

	// slowest is the time between attempts after that; a cell that was away
	// for longer may wait for as long until it is noticed.
	slowest = 10 * time.Second

	// stable is how long a connection must have lasted for its loss to be a
	// new event, answered at once. Two Kips that take a cell from each other
	// in turn never get there, and slow down.
	stable = 10 * time.Second

	// Other failures are tried again after firstRetry, doubled each time.
	firstRetry = 100 * time.Millisecond

	// A refusal (somebody at the address is not the cell) does not go away by
	// itself: firstRefusedRetry, doubled to slowestRefused.
	firstRefusedRetry = time.Second
	slowestRefused    = time.Minute
)

// pace says when to try again. Its jitter comes from the cell's name, so that
// cells differ and a simulation repeats itself.
type pace struct {
	cell     string
	clock    clock.PassiveClock
	since    time.Time // the beginning of the eager window
	failures int
	tries    int
}

// eagerFor is what is left of the eager window.
func (p *pace) eagerFor() time.Duration { return eagerWindow - p.clock.Since(p.since) }

// slow is the pause before an attempt after the eager window.
func (p *pace) slow() time.Duration { return p.jitter(slowest) }

// next is the pause after an attempt that ended with this error, having been
// connected for as long as served.
func (p *pace) next(err error, served time.Duration) time.Duration {
	if served >= stable {
		p.since, p.failures = p.clock.Now(), 0
		return 0
	}
	if errors.Is(err, tunnel.ErrUnreachable) {
		return 0 // await sets the pace
	}
	p.failures++
	first, most := firstRetry, slowest
	if refusalReason(err) != "" {
		first, most = firstRefusedRetry, slowestRefused
	}
	return p.jitter(min(most, first<<min(p.failures-1, 20)))
}

// jitter is between a half and the whole of d.
func (p *pace) jitter(d time.Duration) time.Duration {
	p.tries++
	return d/2 + time.Duration(fraction(p.cell, p.tries)*float64(d/2))
}

// fraction is between 0 and 1, always the same for the same arguments.
func fraction(cell string, n int) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(cell))
	_, _ = h.Write([]byte(strconv.Itoa(n)))
	// FNV's low bits are the better mixed ones.
	return float64(h.Sum64()&(1<<32-1)) / (1 << 32)
}
