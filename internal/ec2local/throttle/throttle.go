// Package throttle is EC2's brake: token buckets per action, for requests and for the instances that they are about. The
// numbers of EC2 are those of
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html, as they hold for an account that asked for no
// other ones.
package throttle

import (
	"strings"
	"sync"

	"golang.org/x/time/rate"
	"k8s.io/utils/clock"
)

// Limit is a bucket: how much it holds, and how much flows in each second. The zero Limit is none.
type Limit struct {
	Burst     int
	PerSecond float64
}

// Limits are all buckets of an account. Every action has buckets of its own, whatever they have in common. The zero
// Limits let everything pass.
type Limits struct {
	// Reads and Writes are the request buckets of actions that the maps do not name.
	Reads, Writes Limit
	// Requests are the request buckets of single actions.
	Requests map[string]Limit
	// Unselective are buckets for requests of these actions that say neither by filter nor by page what they want.
	Unselective map[string]Limit
	// Resources are buckets of which a request takes as much as it names, or makes, instances.
	Resources map[string]Limit
}

// EC2 are the limits of a new account.
func EC2() Limits {
	l := Limits{
		Reads:  Limit{100, 20},
		Writes: Limit{50, 5}, // also that of what EC2 calls resource-intensive
		Requests: map[string]Limit{
			"RunInstances": {5, 2}, "StartInstances": {5, 2}, "TerminateInstances": {100, 5},
			"CreateTags": {100, 10}, "DeleteTags": {100, 10}, "CreateVolume": {100, 5}, "DeleteVolume": {100, 5},
			"AssociateIamInstanceProfile": {100, 5}, "DisassociateIamInstanceProfile": {100, 5},
		},
		Unselective: map[string]Limit{},
		Resources: map[string]Limit{
			"RunInstances": {1000, 2}, "StartInstances": {1000, 2}, "TerminateInstances": {1000, 20}, "StopInstances": {1000, 20},
		},
	}
	for _, action := range []string{"DescribeInstances", "DescribeInstanceStatus", "DescribeNetworkInterfaces",
		"DescribeSecurityGroups", "DescribeVolumes"} {
		l.Unselective[action] = Limit{50, 10}
	}
	return l
}

// Buckets are the buckets of an account, full at the start. They are used from many goroutines.
type Buckets struct {
	limits Limits
	clock  clock.PassiveClock

	mu      sync.Mutex
	buckets map[key]*rate.Limiter
}

// key names a bucket: an action and which one of its buckets.
type key struct{ action, of string }

// New makes buckets.
func New(l Limits, clk clock.PassiveClock) *Buckets {
	return &Buckets{limits: l, clock: clk, buckets: map[key]*rate.Limiter{}}
}

// Request takes a request out of its bucket; false means that there is none left. Selective tells whether it has a
// filter, or wants pages.
func (b *Buckets) Request(action string, selective bool) bool {
	limit, of := b.limits.request(action), "requests"
	if l, ok := b.limits.Unselective[action]; ok && !selective {
		limit, of = l, "unselective"
	}
	bucket := b.bucket(key{action, of}, limit)
	return bucket == nil || bucket.AllowN(b.clock.Now(), 1)
}

// Resources takes n instances out of an action's bucket; ok is false if there are not as many. Undo puts them back: the
// request failed.
func (b *Buckets) Resources(action string, n int) (undo func(), ok bool) {
	bucket := b.bucket(key{action, "resources"}, b.limits.Resources[action])
	if bucket == nil {
		return func() {}, true
	}
	now := b.clock.Now()
	taken := bucket.ReserveN(now, n)
	if !taken.OK() {
		return nil, false
	}
	if taken.DelayFrom(now) > 0 {
		taken.CancelAt(now)
		return nil, false
	}
	return func() { taken.CancelAt(now) }, true
}

func (l *Limits) request(action string) Limit {
	if own, ok := l.Requests[action]; ok {
		return own
	}
	for _, prefix := range []string{"Describe", "Get", "List", "Search"} {
		if strings.HasPrefix(action, prefix) {
			return l.Reads
		}
	}
	return l.Writes
}

// bucket is nil where there is no limit.
func (b *Buckets) bucket(k key, l Limit) *rate.Limiter {
	if l == (Limit{}) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buckets[k] == nil {
		b.buckets[k] = rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst)
	}
	return b.buckets[k]
}
