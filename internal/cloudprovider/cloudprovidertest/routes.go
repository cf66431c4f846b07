package cloudprovidertest

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Routes are the networks that lead to instances, by network: the interfaces
// they lead to, which may be gone.
func (c *Cloud) Routes() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.routes)
}

// EnsureRoutes implements cloudprovider.Router.
func (f *Fake) EnsureRoutes(ctx context.Context, to cloudprovider.RouteTarget, networks []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.begin(ctx, EnsureRoutes, cloudprovider.LaunchRequest{})
	if before != nil {
		return before
	}
	m := f.mine(to.InstanceID)
	if m == nil || m.NetworkInterface != to.NetworkInterface || f.shown(m).State != cloudprovider.StateRunning {
		return firstOf(after, &cloudprovider.Error{Kind: cloudprovider.Transient, Action: "EnsureRoutes", Message: to.InstanceID + " does not run"})
	}
	var errs []error
	for _, n := range networks {
		if other := f.routes[n]; other != "" && other != to.NetworkInterface || slices.Contains(f.TakenRoutes, n) {
			errs = append(errs, &cloudprovider.Error{Kind: cloudprovider.InvalidConfiguration, Action: "EnsureRoutes",
				Message: n + " leads elsewhere", Err: cloudprovider.ErrRouteTaken})
			continue
		}
		f.routes[n] = to.NetworkInterface
	}
	return firstOf(after, errors.Join(errs...))
}

// RemoveRoutes implements cloudprovider.Router.
func (f *Fake) RemoveRoutes(ctx context.Context, to cloudprovider.RouteTarget) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.begin(ctx, RemoveRoutes, cloudprovider.LaunchRequest{})
	if before != nil {
		return before
	}
	maps.DeleteFunc(f.routes, func(_, nic string) bool { return nic == to.NetworkInterface })
	return after
}
