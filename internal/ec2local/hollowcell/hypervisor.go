package hollowcell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Config says how a Hypervisor works.
type Config struct {
	// Metadata is the URL of the metadata service. It tells machines by the addresses that they connect from.
	Metadata string
	// Logger is told of cells that break.
	Logger *slog.Logger
}

// Hypervisor implements machine.Hypervisor. Its machines live as long as it does.
type Hypervisor struct {
	config Config
	exited chan string
	closed context.Context //nolint:containedctx // the life of what runs the machines
	close  context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	cells map[string]*life
}

// life is a machine that is on.
type life struct {
	end   context.CancelFunc
	ended chan struct{}
}

var _ machine.Hypervisor = (*Hypervisor)(nil)

// New makes a Hypervisor, which must be closed.
func New(c Config) *Hypervisor {
	h := &Hypervisor{config: c, exited: make(chan string), cells: map[string]*life{}}
	h.closed, h.close = context.WithCancel(context.Background())
	return h
}

// Close ends all machines.
func (h *Hypervisor) Close() {
	h.close()
	h.wg.Wait()
}

// Start implements [machine.Hypervisor].
func (h *Hypervisor) Start(ctx context.Context, m machine.Spec) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cells[m.ID] != nil {
		return nil
	}
	if err := errors.Join(ctx.Err(), h.closed.Err()); err != nil {
		return fmt.Errorf("machine %s: %w", m.ID, err)
	}
	on, end := context.WithCancel(h.closed)
	l := &life{end: end, ended: make(chan struct{})}
	h.cells[m.ID] = l
	h.wg.Go(func() {
		defer end()
		c := &cell{address: m.NIC.PrimaryIP.Addr(), metadata: h.config.Metadata}
		err := c.run(on)
		h.mu.Lock()
		delete(h.cells, m.ID)
		h.mu.Unlock()
		close(l.ended)
		if on.Err() != nil {
			return
		}
		h.config.Logger.Error("a hollow cell broke", "instance", m.ID, "error", err)
		select {
		case h.exited <- m.ID:
		case <-h.closed.Done():
		}
	})
	return nil
}

// PowerOff implements [machine.Hypervisor].
func (h *Hypervisor) PowerOff(ctx context.Context, id string, _ bool) error {
	h.mu.Lock()
	l := h.cells[id]
	h.mu.Unlock()
	if l == nil {
		return nil
	}
	l.end()
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("machine %s: %w", id, ctx.Err())
	}
}

// Remove implements [machine.Hypervisor]: there is no disk.
func (h *Hypervisor) Remove(ctx context.Context, _ string) error { return ctx.Err() }

// Adopt implements [machine.Hypervisor]: no machine of an earlier process is left.
func (h *Hypervisor) Adopt(ctx context.Context, _ machine.Spec) (bool, error) {
	return false, ctx.Err()
}

// Exited implements [machine.Hypervisor].
func (h *Hypervisor) Exited() <-chan string { return h.exited }

// Console implements [machine.Hypervisor]. A hollow cell says nothing.
func (h *Hypervisor) Console(id string) ([]byte, error) {
	return nil, fmt.Errorf("machine %s: console: %w", id, fs.ErrNotExist)
}
