package cloudprovidertest

import (
	"context"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Stop implements cloudprovider.Stopper.
func (f *Fake) Stop(ctx context.Context, id string) error {
	return f.power(ctx, Stop, id, func(m *machine, state cloudprovider.State) error {
		switch {
		case m.CapacityType == v1beta1.Spot:
			return &cloudprovider.Error{Kind: cloudprovider.Unsupported, Action: "Stop", Code: "Unsupported", Message: "a spot instance"}
		case state == cloudprovider.StatePending:
			return incorrect(Stop, state)
		case state == cloudprovider.StateRunning:
			m.stopped, m.reason = f.Clock.Now(), "user request"
		}
		return nil
	})
}

// Start implements cloudprovider.Stopper. What is sold out cannot be started
// either.
func (f *Fake) Start(ctx context.Context, id string) error {
	return f.power(ctx, Start, id, func(m *machine, state cloudprovider.State) error {
		switch {
		case state == cloudprovider.StateStopping:
			return incorrect(Start, state)
		case state != cloudprovider.StateStopped:
		case f.SoldOut != nil && f.SoldOut(v1beta1.LaunchStatus{InstanceType: m.InstanceType, Zone: m.Zone, CapacityType: m.CapacityType}):
			return &cloudprovider.Error{Kind: cloudprovider.InsufficientCapacity, Action: "Start", Code: "InsufficientCapacity", Message: "no " + m.InstanceType}
		default:
			m.stopped, m.reason, m.LaunchTime = time.Time{}, "", f.Clock.Now()
		}
		return nil
	})
}

func incorrect(method Method, state cloudprovider.State) error {
	return &cloudprovider.Error{Kind: cloudprovider.Transient, Action: string(method), Code: "IncorrectInstanceState", Message: "it is " + string(state)}
}

func (f *Fake) power(ctx context.Context, method Method, id string, change func(*machine, cloudprovider.State) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.begin(ctx, method, cloudprovider.LaunchRequest{})
	if before != nil {
		return before
	}
	m := f.mine(id)
	if m == nil || !f.visible(m) {
		return firstOf(after, &cloudprovider.Error{Kind: cloudprovider.NotFound, Action: string(method), Message: id})
	}
	state := f.shown(m).State
	if state == cloudprovider.StateShuttingDown || state == cloudprovider.StateTerminated {
		return firstOf(after, incorrect(method, state))
	}
	return firstOf(change(m, state), after)
}
