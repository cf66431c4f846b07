package instancetype

import (
	"sync"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// UnavailableFor is how long an offering is avoided after the cloud refused it
// for lack of capacity. Long enough that a burst of pods does not run into the
// same wall, short enough to notice capacity that came back.
const UnavailableFor = 3 * time.Minute

// Key names an offering. A shortage is never remembered more widely than this:
// spot running out says nothing about on-demand, one zone nothing about the next.
type Key struct {
	InstanceType string
	Zone         string
	CapacityType v1beta1.CapacityType
}

// Unavailable remembers which offerings were refused lately. The zero value is
// empty and ready; all methods are safe for concurrent use, and on nil they
// read as empty.
type Unavailable struct {
	mu    sync.RWMutex
	until map[Key]time.Time
}

// Mark avoids the offering until now + UnavailableFor, or longer if it is
// avoided for longer already.
func (u *Unavailable) Mark(k Key, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[Key]time.Time{}
	}
	for old, t := range u.until {
		if !now.Before(t) {
			delete(u.until, old)
		}
	}
	if until := now.Add(UnavailableFor); until.After(u.until[k]) {
		u.until[k] = until
	}
}

// Clear ends that an offering is avoided: the cloud had it again.
func (u *Unavailable) Clear(k Key) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.until, k)
}

// Until says whether the offering is to be avoided at now, and until when.
func (u *Unavailable) Until(k Key, now time.Time) (time.Time, bool) {
	if u == nil {
		return time.Time{}, false
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	t, ok := u.until[k]
	if !ok || !now.Before(t) {
		return time.Time{}, false
	}
	return t, true
}

// snapshot copies what is avoided at now, nil when there is nothing: choosing
// asks for thousands of offerings and should not take a lock for each.
func (u *Unavailable) snapshot(now time.Time) map[Key]time.Time {
	if u == nil {
		return nil
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	var m map[Key]time.Time
	for k, t := range u.until {
		if now.Before(t) {
			if m == nil {
				m = make(map[Key]time.Time, len(u.until))
			}
			m[k] = t
		}
	}
	return m
}
