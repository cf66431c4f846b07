package cloud

import (
	"slices"
	"time"
)

// Lag is how far what the API shows is behind what is: EC2 is eventually consistent. Zero is not at all.
type Lag struct {
	// Appear is how long a new instance does not exist for any request but the repetition of its launch.
	Appear time.Duration
	// Stale is how old the state of an instance is that reads show.
	Stale time.Duration
}

// version is what an instance was until some time.
type version struct {
	until    time.Time
	instance *Instance
}

// SetLag changes the lag from now on.
func (c *Cloud) SetLag(l Lag) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lag = l
}

// outdate remembers what an instance was until now, for reads that lag. c.mu is held.
func (c *Cloud) outdate(old *Instance) {
	if c.lag.Stale == 0 {
		delete(c.versions, old.ID)
		return
	}
	now := c.Now()
	versions := slices.DeleteFunc(c.versions[old.ID], func(v version) bool { return now.Sub(v.until) > c.lag.Stale })
	c.versions[old.ID] = append(versions, version{until: now, instance: old})
}

// shown is what reads show of an instance, false if it does not exist for them. c.mu is held.
func (c *Cloud) shown(i *Instance) (*Instance, bool) {
	now := c.Now()
	if now.Sub(i.created()) < c.lag.Appear {
		return nil, false
	}
	for _, v := range c.versions[i.ID] {
		if now.Sub(v.until) < c.lag.Stale {
			return v.instance, true
		}
	}
	return i, true
}

// known returns an instance that requests may name: one that exists, and has begun to appear. c.mu is held.
func (c *Cloud) known(id string) (*Instance, bool) {
	i, ok := c.instances[id]
	if !ok || c.Now().Sub(i.created()) < c.lag.Appear {
		return nil, false
	}
	return i, true
}

// created is when an instance was launched first.
func (i *Instance) created() time.Time { return i.Volume.Created }
