package cloudprovidertest

import (
	"context"
	"slices"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

var _ cloudprovider.Sweeper = (*Fake)(nil)

// Leave makes something that is left over.
func (c *Cloud) Leave(l cloudprovider.Leftover) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leftovers = append(c.leftovers, l)
}

// Left is what is left over now.
func (c *Cloud) Left() []cloudprovider.Leftover {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.leftovers)
}

// Leftovers implements cloudprovider.Sweeper.
func (f *Fake) Leftovers(ctx context.Context) ([]cloudprovider.Leftover, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, Leftovers, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return nil, firstOf(before, after)
	}
	return slices.Clone(f.leftovers), nil
}

// RemoveLeftover implements cloudprovider.Sweeper.
func (f *Fake) RemoveLeftover(ctx context.Context, l cloudprovider.Leftover) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.begin(ctx, RemoveLeftover, cloudprovider.LaunchRequest{})
	if before != nil {
		return before
	}
	f.leftovers = slices.DeleteFunc(f.leftovers, func(x cloudprovider.Leftover) bool { return x == l })
	return after
}
