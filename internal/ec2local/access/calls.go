package access

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Calls remembers what was called, by whom, and with which verdict. A call counts once for each action that it needs, as
// RunInstances may need ec2:CreateTags and iam:PassRole besides; one that was denied counts for the first action that
// was, only. A call that is wrong in itself is refused before anybody asks whether it is allowed, and does not count.
type Calls struct {
	now func() time.Time

	mu      sync.Mutex
	counts  map[callKey]*Count
	denials []Denial
}

type callKey struct{ principal, action string }

// Count is how often a principal asked for an action. Its JSON form is what the administration API shows.
type Count struct {
	Action    string `json:"action"`
	Principal string `json:"principal"`
	Allowed   int    `json:"allowed"`
	Denied    int    `json:"denied"`
}

// Denial is one call that was not allowed.
type Denial struct {
	Time      time.Time `json:"time"`
	Action    string    `json:"action"`
	Resource  string    `json:"resource"`
	Principal string    `json:"principal"`
	// Explicit is true if a statement denies it, false if none allows it.
	Explicit bool `json:"explicit"`
}

// maxDenials is how many denials are kept, the latest: a caller that tries again and again must not fill the memory.
const maxDenials = 1000

func newCalls(now func() time.Time) Calls {
	return Calls{now: now, counts: map[callKey]*Count{}}
}

// Counts returns all counts, by action and principal.
func (c *Calls) Counts() []Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Count, 0, len(c.counts))
	for n := range maps.Values(c.counts) {
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Action, b.Action), cmp.Compare(a.Principal, b.Principal))
	})
	return out
}

// Denials returns the latest denials, the oldest first.
func (c *Calls) Denials() []Denial {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Denial{}, c.denials...)
}

// Forget begins anew.
func (c *Calls) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.counts)
	c.denials = nil
}

// Allowed counts a call that was allowed, once for each action.
func (c *Calls) Allowed(principal string, actions ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, action := range actions {
		c.count(principal, action).Allowed++
	}
}

// Denied counts a call that was not allowed, and keeps it.
func (c *Calls) Denied(d *Denied) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count(d.Principal, d.Action).Denied++
	if len(c.denials) == maxDenials {
		c.denials = slices.Delete(c.denials, 0, 1)
	}
	c.denials = append(c.denials, Denial{
		Time: c.now().UTC(), Action: d.Action, Resource: d.Resource, Principal: d.Principal, Explicit: d.Explicit,
	})
}

// count is the count of an action by a principal. c.mu is held.
func (c *Calls) count(principal, action string) *Count {
	key := callKey{principal, action}
	if c.counts[key] == nil {
		c.counts[key] = &Count{Action: action, Principal: principal}
	}
	return c.counts[key]
}
