// Package hollow makes machines that exist for EC2's API only: they have states, addresses and tags, and run nothing. A
// machine can hold thousands of them, and needs neither root nor Linux for it.
package hollow

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Hypervisor is a [machine.Hypervisor] that runs nothing and therefore remembers nothing: its machines are as the API
// side says, and never end by themselves. The zero value is ready.
type Hypervisor struct{}

var _ machine.Hypervisor = Hypervisor{}

// Start implements [machine.Hypervisor].
func (Hypervisor) Start(ctx context.Context, _ machine.Spec) error { return ctx.Err() }

// PowerOff implements [machine.Hypervisor].
func (Hypervisor) PowerOff(ctx context.Context, _ string, _ bool) error { return ctx.Err() }

// Remove implements [machine.Hypervisor].
func (Hypervisor) Remove(ctx context.Context, _ string) error { return ctx.Err() }

// Adopt implements [machine.Hypervisor]: what runs nothing survived.
func (Hypervisor) Adopt(ctx context.Context, _ machine.Spec) (bool, error) { return true, ctx.Err() }

// Exited implements [machine.Hypervisor]. Nothing is ever sent.
func (Hypervisor) Exited() <-chan string { return nil }

// Console implements [machine.Hypervisor].
func (Hypervisor) Console(id string) ([]byte, error) {
	return nil, fmt.Errorf("machine %s: console: %w", id, fs.ErrNotExist)
}
