package cloud

import (
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// StateChange is what an operation did to one instance.
type StateChange struct {
	ID            string
	Before, After State
}

// Terminate ends instances for good. An instance that is ending or has ended already is no error.
func (c *Cloud) Terminate(ids []string, dryRun bool) ([]StateChange, error) {
	check := func(i *Instance) error {
		if !i.APITermination {
			return query.Errorf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its "+
				"'disableApiTermination' instance attribute and try again.", i.ID)
		}
		return nil
	}
	return c.changeState(ids, dryRun, check, func(i *Instance) (State, bool) {
		return ShuttingDown, i.State != ShuttingDown && i.State != Terminated
	})
}

// Stop powers instances off and keeps their disks and addresses.
func (c *Cloud) Stop(ids []string, dryRun bool) ([]StateChange, error) {
	check := func(i *Instance) error {
		switch {
		case i.Spot != nil:
			return query.Errorf("UnsupportedOperation", "You can't stop the Spot Instance '%s' because it is "+
				"associated with a one-time Spot Instance request.", i.ID)
		case i.State != Running && i.State != Stopping && i.State != Stopped:
			return incorrectState(i)
		}
		return nil
	}
	return c.changeState(ids, dryRun, check, func(i *Instance) (State, bool) { return Stopping, i.State == Running })
}

// Start powers stopped instances on again.
func (c *Cloud) Start(ids []string, dryRun bool) ([]StateChange, error) {
	check := func(i *Instance) error {
		if i.State != Stopped && i.State != Running && i.State != Pending {
			return incorrectState(i)
		}
		return nil
	}
	return c.changeState(ids, dryRun, check, func(i *Instance) (State, bool) { return Pending, i.State == Stopped })
}

func incorrectState(i *Instance) error {
	return query.Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which this can be done: "+
		"it is %s", i.ID, i.State)
}

// changeState checks all instances, then moves those that next says to another state. Nothing changes when a check
// fails.
func (c *Cloud) changeState(ids []string, dryRun bool, check func(*Instance) error, next func(*Instance) (State, bool)) ([]StateChange, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		i, ok := c.known(id)
		if !ok {
			return nil, NotFound("i", id)
		}
		if err := check(i); err != nil {
			return nil, err
		}
	}
	if dryRun {
		return nil, ErrDryRun()
	}
	var out []StateChange
	for _, id := range unique(ids) {
		i := c.instances[id]
		change := StateChange{ID: id, Before: i.State, After: i.State}
		if state, ok := next(i); ok {
			if err := c.mutate(id, func(i *Instance) { c.byUser(i, state) }); err != nil {
				return nil, err
			}
			change.After = state
		}
		out = append(out, change)
	}
	return out, nil
}

// byUser moves an instance to another state because its user wants so.
func (c *Cloud) byUser(i *Instance, next State) {
	if next == Pending {
		i.LaunchTime, i.StartedAgain = c.Now(), true
		if i.Interface.AutoPublic {
			i.Interface.Public = c.publicAddress(i.Interface.Primary)
		}
		c.enter(i, next, Reason{}, "")
		return
	}
	const code = "Client.UserInitiatedShutdown"
	c.enter(i, next, Reason{Code: code, Message: code + ": User initiated shutdown"},
		"User initiated ("+c.Now().Format("2006-01-02 15:04:05")+" GMT)")
}

// unique drops repetitions and keeps the order.
func unique(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// Attributes are what can be changed of an instance later; nil leaves a thing as it is.
type Attributes struct {
	SourceDestCheck   *bool
	Groups            []string
	APITermination    *bool
	ShutdownBehaviour *string
}

// Modify changes an instance's attributes.
func (c *Cloud) Modify(id string, a Attributes, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.known(id)
	switch {
	case !ok:
		return NotFound("i", id)
	case !i.HasMachine():
		return incorrectState(i)
	}
	if a.Groups != nil {
		if err := c.checkGroups(a.Groups); err != nil {
			return err
		}
	}
	if a.ShutdownBehaviour != nil {
		if err := checkShutdownBehaviour(*a.ShutdownBehaviour); err != nil {
			return err
		}
	}
	if dryRun {
		return ErrDryRun()
	}
	defer c.networkChanged()
	return c.mutate(id, func(i *Instance) {
		if a.SourceDestCheck != nil {
			i.Interface.SourceDestCheck = *a.SourceDestCheck
		}
		if a.Groups != nil {
			i.Interface.Groups = unique(a.Groups)
		}
		if a.APITermination != nil {
			i.APITermination = *a.APITermination
		}
		if a.ShutdownBehaviour != nil {
			i.ShutdownBehaviour = *a.ShutdownBehaviour
		}
	})
}

// SetCredits changes how a burstable instance pays for CPU time above its baseline.
func (c *Cloud) SetCredits(id, credits string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.known(id)
	switch {
	case !ok:
		return NotFound("i", id)
	case !i.HasMachine() || i.State == ShuttingDown:
		return incorrectState(i)
	case !i.Burstable:
		return query.Errorf("InstanceCreditSpecification.NotSupported", "The instance '%s' is not burstable", id)
	}
	return c.mutate(id, func(i *Instance) { i.CPUCredits = credits })
}

// AssociateProfile gives an instance without an instance profile one and returns the ID of the association.
func (c *Cloud) AssociateProfile(id, arn string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.known(id)
	switch {
	case !ok:
		return "", NotFound("i", id)
	case !i.HasMachine() || i.State == ShuttingDown:
		return "", incorrectState(i)
	case i.ProfileARN != "":
		return "", query.Errorf("IncorrectState", "There is an existing association for instance %s", id)
	}
	association, err := c.newID("iip-assoc")
	if err != nil {
		return "", err
	}
	return association, c.mutate(id, func(i *Instance) { i.ProfileARN = arn })
}

func checkShutdownBehaviour(s string) error {
	if s != ShutdownStop && s != ShutdownTerminate {
		return query.Errorf("InvalidParameterValue",
			"Value (%s) for parameter InstanceInitiatedShutdownBehavior is invalid. It must be stop or terminate", s)
	}
	return nil
}
