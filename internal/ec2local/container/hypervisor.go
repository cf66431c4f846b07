package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/keeper"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// PowerOffSignal asks a machine's init to end, like the press of a power button: SIGRTMIN+4, which systemd understands
// as well. An init that does not handle it is killed when the grace period is over.
const PowerOffSignal = unix.Signal(38)

// Config says how a Hypervisor works.
type Config struct {
	// StateDir keeps the machines' disks and what is known of their processes, in the directory "machines". It must
	// not be on an overlayfs, else containerd in the machines cannot use its own.
	StateDir string
	// Cluster names the machines' cgroups, kip-<Cluster>.
	Cluster string
	// Network is what the machines are plugged into. It is the caller's to close, after the Hypervisor.
	Network *vpcnet.Network
	// Nameserver is what an image without its own /etc/resolv.conf uses. Optional.
	Nameserver netip.Addr
	// Shares are directories of the host that every machine sees, read-only, by their path in the machine: what a
	// computer would mount from a file server, where the host's kernel has no client for one. Optional.
	Shares map[string]string
	// PowerOffGrace is how long init has to end when it is asked to. Default 10 s.
	PowerOffGrace time.Duration
	// Logger is told of machines that start and end. Default slog.Default.
	Logger *slog.Logger
}

// Hypervisor implements machine.Hypervisor.
type Hypervisor struct {
	config  Config
	cgroups *cgroups
	keeper  *keeper.Keeper
}

var _ machine.Hypervisor = (*Hypervisor)(nil)

// New returns a Hypervisor, which must be closed. It needs root. The machines of an earlier one wait to be adopted.
func New(c Config) (*Hypervisor, error) {
	groups, err := hostCgroups(c.Cluster)
	if err != nil {
		return nil, fmt.Errorf("learning the host's cgroups: %w", err)
	}
	k, err := keeper.New(filepath.Join(c.StateDir, "machines"), c.PowerOffGrace, c.Logger)
	if err != nil {
		return nil, err
	}
	return &Hypervisor{config: c, cgroups: groups, keeper: k}, nil
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
	if err := h.makeDisk(m); err != nil {
		return fmt.Errorf("making its disk: %w", err)
	}
	files, err := h.makeKernelFiles(m)
	if err != nil {
		return fmt.Errorf("writing its view of the kernel: %w", err)
	}
	if err := h.cgroups.remove(ctx, m.ID); err != nil { // of an earlier life
		return err
	}
	if err := h.cgroups.create(m); err != nil {
		return err
	}
	return h.launch(ctx, m, h.plan(m, files))
}

// PowerOff implements machine.Hypervisor.
func (h *Hypervisor) PowerOff(ctx context.Context, id string, force bool) error {
	var ask func(*keeper.Process) error
	if !force {
		ask = func(p *keeper.Process) error { return p.Signal(PowerOffSignal) }
	}
	if err := h.keeper.End(ctx, id, ask); err != nil {
		return fmt.Errorf("powering off machine %s: %w", id, err)
	}
	if err := h.cgroups.remove(ctx, id); err != nil {
		return fmt.Errorf("powering off machine %s: %w", id, err)
	}
	return nil
}

// Adopt implements machine.Hypervisor.
func (h *Hypervisor) Adopt(_ context.Context, m machine.Spec) (running bool, err error) {
	return h.keeper.Adopt(m.ID)
}

// Exited implements machine.Hypervisor.
func (h *Hypervisor) Exited() <-chan string { return h.keeper.Exited() }

// Console implements machine.Hypervisor.
func (h *Hypervisor) Console(id string) ([]byte, error) { return h.keeper.Console(id) }

// Machines returns the IDs of all machines of which there is anything left, running or not.
func (h *Hypervisor) Machines() ([]string, error) { return h.keeper.Machines() }

// Close lets go of the machines, which go on running, and waits for the Hypervisor's goroutines. No other method may be
// called afterwards.
func (h *Hypervisor) Close() { h.keeper.Close() }

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
	}
	// Its specification goes last: an interrupted removal still knows the network device.
	if err := os.RemoveAll(filepath.Join(h.keeper.Dir(id), rootDir)); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	if err := h.keeper.Forget(id); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	return nil
}
