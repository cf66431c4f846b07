package cloud

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// driver works towards what one instance's record says. It is the only caller of the hypervisor for that instance, so
// calls for the same machine never overlap.
type driver struct {
	changed chan struct{} // capacity 1

	mu       sync.Mutex
	starting context.CancelFunc // ends the attempt to start the machine; nil when there is none
}

// poke tells the driver that the record changed. An attempt to start a machine that is no longer wanted is cut short.
func (d *driver) poke(now State) {
	d.mu.Lock()
	if d.starting != nil && now != Pending {
		d.starting()
	}
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// How long a driver waits after the hypervisor failed to end a machine: doubling from the first to the second.
const (
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)

// spawn starts an instance's driver if Run is running. adopt is set when the instance may have a machine that this
// process did not start. c.mu is held.
func (c *Cloud) spawn(id string, adopt bool) {
	if c.running == nil || c.running.Err() != nil {
		return
	}
	ctx, d := c.running, &driver{changed: make(chan struct{}, 1)}
	c.drivers[id] = d
	c.wg.Go(func() { c.drive(ctx, id, d, adopt) })
}

// forever is the wait of an instance that has nothing to do until its record changes.
const forever time.Duration = -1

// drive runs one instance until ctx ends or the instance is forgotten.
func (c *Cloud) drive(ctx context.Context, id string, d *driver, adopt bool) {
	backoff := minBackoff
	removed := false // the machine of an instance that is shutting down is gone
	for ctx.Err() == nil {
		i, err := c.Instance(id)
		if err != nil {
			return // forgotten
		}
		var wait time.Duration
		if adopt {
			err = c.adopt(ctx, i)
			adopt = err != nil
		} else {
			wait, err = c.step(ctx, i, d, &removed)
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			c.cfg.Log.Warn("will try again", "instance", id, "state", string(i.State), "in", backoff, "error", err)
			wait, backoff = backoff, min(2*backoff, maxBackoff)
		} else {
			backoff = minBackoff
		}
		c.sleep(ctx, d, wait)
	}
}

// sleep waits for a while, or until the record changes.
func (c *Cloud) sleep(ctx context.Context, d *driver, wait time.Duration) {
	if wait == 0 {
		return
	}
	var due <-chan time.Time
	if wait > 0 {
		timer := c.cfg.Clock.NewTimer(wait)
		defer timer.Stop()
		due = timer.C()
	}
	select {
	case <-due:
	case <-d.changed:
	case <-ctx.Done():
	}
}

// adopt takes an instance's machine up again after ec2local was restarted.
func (c *Cloud) adopt(ctx context.Context, i *Instance) error {
	if i.State == Terminated || i.State == Stopped {
		return nil
	}
	runs, err := c.cfg.Hypervisor.Adopt(ctx, c.spec(i))
	if err != nil {
		return err
	}
	c.cfg.Log.Info("took up an instance", "instance", i.ID, "state", string(i.State), "runs", runs)
	if i.State == Running && !runs {
		c.machineEnded(i.ID)
	}
	return nil
}

// step does what an instance's state asks for and returns how long to wait, unless the record changes, before looking
// again.
func (c *Cloud) step(ctx context.Context, i *Instance, d *driver, removed *bool) (time.Duration, error) {
	delays := c.cfg.Delays
	switch i.State {
	case Pending:
		if wait := c.until(i.Since.Add(delays.Boot)); wait > 0 {
			return wait, nil
		}
		return 0, c.start(ctx, i, d)
	case Running:
		return c.endRunning(i)
	case Stopping:
		if err := c.cfg.Hypervisor.PowerOff(ctx, i.ID, false); err != nil {
			return 0, err
		}
		if wait := c.until(i.Since.Add(delays.Stop)); wait > 0 {
			return wait, nil
		}
		return 0, c.leave(i, Stopped)
	case ShuttingDown:
		if !*removed {
			if err := c.cfg.Hypervisor.PowerOff(ctx, i.ID, false); err != nil {
				return 0, err
			}
			if err := c.cfg.Hypervisor.Remove(ctx, i.ID); err != nil {
				return 0, err
			}
			*removed = true
		}
		if wait := c.until(i.Since.Add(delays.Terminate)); wait > 0 {
			return wait, nil
		}
		return 0, c.leave(i, Terminated)
	case Terminated:
		if wait := c.until(i.Since.Add(delays.Retention)); wait > 0 {
			return wait, nil
		}
		return 0, c.forget(i.ID)
	}
	return forever, nil
}

// until is how long it is until t; never negative.
func (c *Cloud) until(t time.Time) time.Duration { return max(0, t.Sub(c.cfg.Clock.Now())) }

// start powers on the machine of a pending instance. A machine that cannot be started ends the instance, or stops it
// again if it was stopped before, as in EC2: the request itself was answered long ago.
func (c *Cloud) start(ctx context.Context, i *Instance, d *driver) error {
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	d.starting = cancel
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.starting = nil
		d.mu.Unlock()
	}()
	// The record may have changed before poke could see this attempt.
	if now, err := c.Instance(i.ID); err != nil || now.State != Pending {
		return nil
	}
	// What the machine says first must not be lost: those who wait for an answer ask again a second later only.
	if err := c.enforce(attempt); err != nil && attempt.Err() == nil {
		return err
	}
	err := c.cfg.Hypervisor.Start(attempt, c.spec(i))
	if ctx.Err() != nil {
		return ctx.Err() // ec2local is ending: the next one starts the machine
	}
	if err != nil && attempt.Err() == nil {
		c.cfg.Log.Error("the machine does not start", "instance", i.ID, "error", err)
		const code = "Server.InternalError"
		return c.moveOn(i.ID, Pending, func(i *Instance) {
			next := ShuttingDown
			if i.StartedAgain {
				next = Stopping
			}
			c.enter(i, next, Reason{Code: code, Message: code + ": Internal error on launch"}, "Server.InternalError")
		})
	}
	if err != nil {
		return nil // cut short because the instance is no longer wanted
	}
	return c.moveOn(i.ID, Pending, func(i *Instance) { c.enter(i, Running, Reason{}, "") })
}

// leave ends an instance's way out of a state, keeping the reason for it.
func (c *Cloud) leave(i *Instance, next State) error {
	return c.moveOn(i.ID, i.State, func(i *Instance) {
		i.State, i.Since = next, c.Now()
		if next == Stopped {
			i.Interface.Public = netip.Addr{}
		}
	})
}

// moveOn changes an instance if it is still in the state given.
func (c *Cloud) moveOn(id string, from State, change func(*Instance)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.instances[id]; !ok || i.State != from {
		return nil
	}
	return c.mutate(id, change)
}
