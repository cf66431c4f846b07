package cloud

import (
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Checks are the results of an instance's two status checks, in EC2's words: ok (also if empty), impaired or
// insufficient-data. Nothing looks at the machine: a test says what shall be found.
type Checks struct {
	// System is about what is beneath the instance, Instance about its own software and network.
	System, Instance string
	// Since is when the results were set.
	Since time.Time
}

// Event is something that EC2 will do to an instance.
type Event struct {
	ID string
	// Code is instance-reboot, system-reboot, system-maintenance, instance-retirement or instance-stop. At its time
	// an instance is really stopped by the last two, and not touched by the others.
	Code        string
	Description string
	// NotBefore is when it begins, NotAfter when it is over at the latest; the second may be zero.
	NotBefore, NotAfter time.Time
}

var (
	checkResults = []string{"ok", "impaired", "insufficient-data"}
	eventCodes   = []string{"instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop"}
)

// SetChecks makes the status checks of an instance find what they shall find.
func (c *Cloud) SetChecks(id string, checks Checks) error {
	for _, result := range []*string{&checks.System, &checks.Instance} {
		if *result == "" {
			*result = checkResults[0]
		}
		if !slices.Contains(checkResults, *result) {
			return query.Errorf("InvalidParameterValue", "a status check finds one of %v, not %q", checkResults, *result)
		}
	}
	checks.Since = c.Now()
	return c.script(id, func(i *Instance) error { i.Checks = checks; return nil })
}

// Schedule replaces what is scheduled for an instance.
func (c *Cloud) Schedule(id string, events []Event) error {
	for _, e := range events {
		switch {
		case !slices.Contains(eventCodes, e.Code):
			return query.Errorf("InvalidParameterValue", "the code of an event is one of %v, not %q", eventCodes, e.Code)
		case e.NotBefore.IsZero():
			return query.Errorf("MissingParameter", "an event needs a time before which it does not begin")
		}
	}
	return c.script(id, func(i *Instance) (err error) {
		i.Events = slices.Clone(events)
		for n := range i.Events {
			if i.Events[n].ID, err = c.newID("instance-event"); err != nil {
				return err
			}
		}
		return nil
	})
}

// script changes what is to happen to an instance that exists.
func (c *Cloud) script(id string, change func(*Instance) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.instances[id]
	switch {
	case !ok:
		return NotFound("i", id)
	case !i.HasMachine():
		return incorrectState(i)
	}
	next := *i
	if err := change(&next); err != nil {
		return err
	}
	return c.mutate(id, func(i *Instance) { i.Checks, i.Events = next.Checks, next.Events })
}

// scheduledEnd is when an event ends an instance, and how; the zero time if none does.
func (c *Cloud) scheduledEnd(i *Instance) (at time.Time, end func(*Instance)) {
	for _, e := range i.Events {
		if (e.Code == "instance-retirement" || e.Code == "instance-stop") && (at.IsZero() || e.NotBefore.Before(at)) {
			at = e.NotBefore
		}
	}
	return at, func(i *Instance) {
		// EC2 stops what has its root on a volume. A one-time spot instance cannot be stopped.
		next := Stopping
		if i.Spot != nil {
			next = ShuttingDown
		}
		const code = "Server.ScheduledStop"
		c.enter(i, next, Reason{Code: code, Message: code + ": Stopped due to a scheduled retirement"}, code)
		i.Events = nil
	}
}

// StatusChecks are what the two status checks of an instance find now. Since is when they began to.
func (c *Cloud) StatusChecks(i *Instance) (system, instance string, since time.Time) {
	switch {
	case i.State != Running:
		return "not-applicable", "not-applicable", time.Time{}
	case i.Checks.System != "":
		return i.Checks.System, i.Checks.Instance, i.Checks.Since
	case c.until(i.Since.Add(c.cfg.Delays.Checks)) > 0:
		return "initializing", "initializing", time.Time{}
	}
	return checkResults[0], checkResults[0], time.Time{}
}
