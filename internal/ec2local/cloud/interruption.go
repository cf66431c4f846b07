package cloud

import (
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Interrupt announces to a running spot instance that it will be terminated after a while; EC2 leaves two minutes.
func (c *Cloud) Interrupt(id string, after time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.announce(id, after)
}

// announce does the same while c.mu is held.
func (c *Cloud) announce(id string, after time.Duration) error {
	return c.changeSpot(id, func(s *Spot) {
		s.Noticed = c.Now()
		s.Action = s.Noticed.Add(after)
	})
}

// Rebalance recommends to a running spot instance to move its work elsewhere.
func (c *Cloud) Rebalance(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changeSpot(id, func(s *Spot) { s.Rebalance = c.Now() })
}

// changeSpot changes a running spot instance. c.mu is held.
func (c *Cloud) changeSpot(id string, change func(*Spot)) error {
	i, ok := c.instances[id]
	switch {
	case !ok:
		return NotFound("i", id)
	case i.Spot == nil:
		return query.Errorf("UnsupportedOperation", "The instance '%s' is not a spot instance", id)
	case i.State != Running:
		return incorrectState(i)
	}
	return c.mutate(id, func(i *Instance) {
		s := *i.Spot
		change(&s)
		i.Spot = &s
	})
}

// endRunning ends a running instance whose time has come, be it for a spot interruption or a scheduled event, and
// returns how long that is away.
func (c *Cloud) endRunning(i *Instance) (time.Duration, error) {
	at, end := c.scheduledEnd(i)
	if spot := i.Spot; spot != nil && !spot.Action.IsZero() && (at.IsZero() || spot.Action.Before(at)) {
		const code = "Server.SpotInstanceTermination"
		at = spot.Action
		end = func(i *Instance) {
			c.enter(i, ShuttingDown, Reason{Code: code, Message: code + ": Spot instance termination"}, code)
		}
	}
	if at.IsZero() {
		return forever, nil
	}
	if wait := c.until(at); wait > 0 {
		return wait, nil
	}
	return 0, c.moveOn(i.ID, Running, end)
}
