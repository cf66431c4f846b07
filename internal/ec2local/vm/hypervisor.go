package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/keeper"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// Config says how a Hypervisor works.
type Config struct {
	// Dir keeps the machines: what their disks hold beside the images, and what is known of their processes.
	Dir string
	// Network is what the machines are plugged into. It is the caller's to close, after the Hypervisor.
	Network *vpcnet.Network
	// Nameserver is what machines are told to ask for names. Optional.
	Nameserver netip.Addr
	// PowerOffGrace is how long a machine has to switch itself off when its button is pressed. Default 10 s.
	PowerOffGrace time.Duration
	// Logger is told of machines that start and end. Default slog.Default.
	Logger *slog.Logger
}

// Hypervisor implements machine.Hypervisor.
type Hypervisor struct {
	config Config
	keeper *keeper.Keeper

	stopDHCP context.CancelFunc
	tasks    sync.WaitGroup // the one that answers DHCP

	mu     sync.Mutex
	leases map[string]vpcnet.Lease // by device

	trying sync.Mutex
	kvm    map[string]bool // whether it works, by the kernel that it was tried with
}

var _ machine.Hypervisor = (*Hypervisor)(nil)

// New returns a Hypervisor, which must be closed. It needs root; the machines of an earlier one wait to be adopted.
// Whether there is a QEMU is asked when a machine is started.
func New(c Config) (*Hypervisor, error) {
	k, err := keeper.New(c.Dir, c.PowerOffGrace, c.Logger)
	if err != nil {
		return nil, err
	}
	h := &Hypervisor{config: c, keeper: k, leases: map[string]vpcnet.Lease{}, kvm: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	h.stopDHCP = stop
	h.tasks.Go(func() {
		if err := c.Network.ServeDHCP(ctx, h.lease, k.Log()); err != nil {
			k.Log().Error("virtual machines get no addresses", "error", err)
		}
	})
	return h, nil
}

// Close lets go of the machines, which go on running, and waits for the Hypervisor's goroutines. No other method may be
// called afterwards.
func (h *Hypervisor) Close() {
	h.stopDHCP()
	h.tasks.Wait()
	h.keeper.Close()
}

// lease is what the machine that has a device is told.
func (h *Hypervisor) lease(device string) (vpcnet.Lease, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.leases[device]
	return l, ok
}

func (h *Hypervisor) setLease(m machine.Spec) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leases[m.NIC.Device] = vpcnet.Lease{NIC: m.NIC, Hostname: m.Hostname, Nameserver: h.config.Nameserver}
}

func (h *Hypervisor) dropLease(m machine.Spec) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.leases, m.NIC.Device)
}

// Start implements machine.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, m machine.Spec) error {
	if h.keeper.Running(m.ID) {
		return nil
	}
	begin := time.Now()
	if err := h.start(ctx, m); err != nil {
		return fmt.Errorf("starting machine %s: %w", m.ID, err)
	}
	h.keeper.Log().Info("machine started", "instance", m.ID, "took", time.Since(begin))
	return nil
}

func (h *Hypervisor) start(ctx context.Context, m machine.Spec) error {
	if err := h.keeper.Prepare(m); err != nil {
		return err
	}
	if err := h.makeDisk(ctx, m); err != nil {
		return fmt.Errorf("making its disk: %w", err)
	}
	computer, err := h.computer(ctx, m)
	if err != nil {
		return err
	}
	h.setLease(m)
	return h.launch(ctx, m, computer)
}

// PowerOff implements machine.Hypervisor.
func (h *Hypervisor) PowerOff(ctx context.Context, id string, force bool) error {
	var ask func(*keeper.Process) error
	if !force {
		ask = func(*keeper.Process) error { return pressPowerButton(ctx, h.socket(id)) }
	}
	if err := h.keeper.End(ctx, id, ask); err != nil {
		return fmt.Errorf("powering off machine %s: %w", id, err)
	}
	return nil
}

// Remove implements machine.Hypervisor.
func (h *Hypervisor) Remove(ctx context.Context, id string) error {
	if err := h.PowerOff(ctx, id, true); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	m, err := h.keeper.Spec(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// It never came as far as having a network.
	case err != nil:
		return fmt.Errorf("removing machine %s: %w", id, err)
	default:
		if err := h.config.Network.Detach(ctx, m.NIC); err != nil {
			return fmt.Errorf("removing machine %s: %w", id, err)
		}
		h.dropLease(m)
	}
	if err := h.keeper.Forget(id); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	return nil
}

// Adopt implements machine.Hypervisor.
func (h *Hypervisor) Adopt(_ context.Context, m machine.Spec) (running bool, err error) {
	if running, err = h.keeper.Adopt(m.ID); running {
		h.setLease(m)
	}
	return running, err
}

// Exited implements machine.Hypervisor.
func (h *Hypervisor) Exited() <-chan string { return h.keeper.Exited() }

// Console implements machine.Hypervisor. It is what the machine's serial port showed.
func (h *Hypervisor) Console(id string) ([]byte, error) { return h.keeper.Console(id) }

// Machines returns the IDs of all machines of which there is anything left, running or not.
func (h *Hypervisor) Machines() ([]string, error) { return h.keeper.Machines() }
