package aws

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// allowance is a token bucket as AWS documents it: so many calls at once, then
// so many in each second. What an account has in truth may be more, or less
// when others use it too.
//
// See https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
type allowance struct {
	burst  int
	refill rate.Limit
}

// allowances are EC2's defaults of the actions that have their own; see
// allowanceOf for the others.
var allowances = map[string]allowance{
	"RunInstances":       {5, 2},
	"StartInstances":     {5, 2},
	"TerminateInstances": {100, 5},
	"CreateTags":         {100, 10},
	"DeleteTags":         {100, 10},
}

// launchedAtOnce: besides its requests EC2 counts the instances they launch.
var launchedAtOnce = allowance{1000, 2}

// larger is how many launches beyond that bucket EC2 must have taken, and
// refused none, for the account to have a larger one.
const larger = 100

const (
	// slowest is what pace never falls below: EC2 recovers.
	slowest rate.Limit = 0.25
	// fastest is what pace never exceeds, whatever EC2 puts up with.
	fastest rate.Limit = 100
	// recovery is by how much a call that EC2 took raises the rate after EC2
	// refused one: slowly, since every time it is too much a call is wasted.
	// At EC2's default for launches that is less than one in a hundred.
	recovery rate.Limit = 0.01
	// discovery is the same before EC2 refused any: an account with larger
	// buckets than the default is found out within seconds. Up to quickly the
	// rate grows by half with each call: a first burst of pods must not wait for
	// a limit that is only assumed. Finding out that it is there costs a handful
	// of calls, once.
	discovery rate.Limit = 0.25
	quickly   rate.Limit = 40
)

// pace is how fast one action may be called: the token bucket, whose rate
// follows what EC2 says. It halves when EC2 refuses a call for coming too
// soon, and grows with every call that EC2 takes: additive increase and
// multiplicative decrease, by which also several clients of one account come
// to share it.
type pace struct {
	clock clock.Clock
	limit rate.Limit // that never needs to be exceeded

	mu      sync.Mutex
	bucket  *rate.Limiter
	refused bool      // ever
	cut     time.Time // when the rate was last halved
}

func newPace(clk clock.Clock, a allowance, limit rate.Limit) *pace {
	return &pace{clock: clk, limit: limit, bucket: rate.NewLimiter(a.refill, a.burst)}
}

// take takes a token, or says after how long there may be one for the caller
// that has so many others before it.
func (p *pace) take(others int) (wait time.Duration, ok bool) {
	now := p.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.missing(now, others) <= 0 && p.bucket.AllowN(now, 1) {
		return 0, true
	}
	return p.until(now, others), false
}

// wait is what take would say if there is no token.
func (p *pace) wait(others int) time.Duration {
	now := p.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until(now, others)
}

func (p *pace) missing(now time.Time, others int) float64 {
	return float64(others+1) - p.bucket.TokensAt(now)
}

func (p *pace) until(now time.Time, others int) time.Duration {
	return max(time.Duration(p.missing(now, others)/float64(p.bucket.Limit())*float64(time.Second)), time.Millisecond)
}

// taken is told of each call that EC2 did not refuse for coming too soon.
// Waiting says that there would be more to do at a higher rate.
func (p *pace) taken(waiting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.bucket.Limit()
	switch {
	case !p.refused && limit < quickly:
		limit = min(limit*1.5, quickly)
	case !waiting:
		return
	case !p.refused:
		limit += discovery
	default:
		limit += recovery
	}
	p.bucket.SetLimitAt(p.clock.Now(), min(limit, p.limit))
}

// tooFast is told of each call that EC2 refused for coming too soon, and when
// it began. Calls that were on their way together count once.
func (p *pace) tooFast(began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if n := int(p.bucket.TokensAt(now)); n > 0 {
		p.bucket.AllowN(now, n) // EC2's bucket is empty, so is this one
	}
	if began.Before(p.cut) {
		return
	}
	p.refused, p.cut = true, now
	p.bucket.SetLimitAt(now, max(p.bucket.Limit()/2, slowest))
}

// atMost is for when a limit is expected without having run into it.
func (p *pace) atMost(l rate.Limit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bucket.SetLimitAt(p.clock.Now(), min(p.bucket.Limit(), l))
}
