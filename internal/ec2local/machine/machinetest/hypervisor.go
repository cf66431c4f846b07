// Package machinetest holds a hypervisor whose machines exist in memory only, for tests and simulations.
package machinetest

import (
	"context"
	"fmt"
	"io/fs"
	"sync"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Hypervisor is a [machine.Hypervisor] in memory. It keeps its machines when the ec2local that uses it is thrown away,
// so a test can hand it to a second one and thereby play a restart. Use New.
type Hypervisor struct {
	exited chan string

	mu       sync.Mutex
	machines map[string]*state
	fault    func(op, id string) error
	calls    []Call
}

// Call is one call a hypervisor got.
type Call struct{ Op, ID string }

type state struct {
	spec    machine.Spec
	running bool
	console []byte
}

var _ machine.Hypervisor = (*Hypervisor)(nil)

// New makes a hypervisor without machines.
func New() *Hypervisor {
	return &Hypervisor{exited: make(chan string, 1024), machines: map[string]*state{}}
}

// SetFault makes every later call ask f first, with the method's name, and fail with f's error if there is one. A nil f
// ends the faults.
func (h *Hypervisor) SetFault(f func(op, id string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = f
}

// enter takes the lock, records the call and asks the fault script. The caller unlocks.
func (h *Hypervisor) enter(ctx context.Context, op, id string) error {
	h.mu.Lock()
	h.calls = append(h.calls, Call{Op: op, ID: id})
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	if h.fault != nil {
		if err := h.fault(op, id); err != nil {
			return fmt.Errorf("machine %s: %w", id, err)
		}
	}
	return nil
}

// Start implements [machine.Hypervisor].
func (h *Hypervisor) Start(ctx context.Context, m machine.Spec) error {
	defer h.mu.Unlock()
	if err := h.enter(ctx, "Start", m.ID); err != nil {
		return err
	}
	s, ok := h.machines[m.ID]
	if !ok {
		s = &state{spec: m}
		h.machines[m.ID] = s
	}
	if !s.running {
		s.running = true
		s.console = fmt.Appendf(s.console, "%s: started\n", m.Hostname)
	}
	return nil
}

// PowerOff implements [machine.Hypervisor].
func (h *Hypervisor) PowerOff(ctx context.Context, id string, _ bool) error {
	defer h.mu.Unlock()
	if err := h.enter(ctx, "PowerOff", id); err != nil {
		return err
	}
	if s, ok := h.machines[id]; ok {
		s.running = false
	}
	return nil
}

// Remove implements [machine.Hypervisor].
func (h *Hypervisor) Remove(ctx context.Context, id string) error {
	defer h.mu.Unlock()
	if err := h.enter(ctx, "Remove", id); err != nil {
		return err
	}
	if s, ok := h.machines[id]; ok && s.running {
		return fmt.Errorf("machine %s: still running", id)
	}
	delete(h.machines, id)
	return nil
}

// Adopt implements [machine.Hypervisor].
func (h *Hypervisor) Adopt(ctx context.Context, m machine.Spec) (bool, error) {
	defer h.mu.Unlock()
	if err := h.enter(ctx, "Adopt", m.ID); err != nil {
		return false, err
	}
	s, ok := h.machines[m.ID]
	return ok && s.running, nil
}

// Exited implements [machine.Hypervisor].
func (h *Hypervisor) Exited() <-chan string { return h.exited }

// Console implements [machine.Hypervisor].
func (h *Hypervisor) Console(id string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.machines[id]
	if !ok {
		return nil, fmt.Errorf("machine %s: console: %w", id, fs.ErrNotExist)
	}
	out := s.console[max(0, len(s.console)-machine.MaxConsole):]
	return append([]byte(nil), out...), nil
}

// End makes a running machine's init end by itself; it answers false when no such machine runs. Exited reports it.
func (h *Hypervisor) End(id string) bool {
	if !h.Kill(id) {
		return false
	}
	h.exited <- id
	return true
}

// Kill ends a running machine as End does, but unseen: what happens to a machine that ends while no ec2local runs.
func (h *Hypervisor) Kill(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.machines[id]
	if !ok || !s.running {
		return false
	}
	s.running = false
	return true
}

// Running answers whether the machine runs.
func (h *Hypervisor) Running(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.machines[id]
	return ok && s.running
}

// Machines returns the specifications of all machines that exist, running or not, by ID.
func (h *Hypervisor) Machines() map[string]machine.Spec {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]machine.Spec, len(h.machines))
	for id, s := range h.machines {
		out[id] = s.spec
	}
	return out
}

// Calls returns all calls so far, in order.
func (h *Hypervisor) Calls() []Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Call(nil), h.calls...)
}
