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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// PowerOffSignal asks a machine's init to end, like the press of a power button: SIGRTMIN+4, which systemd understands
// as well. An init that does not handle it is killed when the grace period is over.
const PowerOffSignal = unix.Signal(38)

const (
	defaultGrace = 10 * time.Second
	// consoles are looked after every consoleInterval, and cut when they are longer than consoleLimit.
	consoleInterval = 10 * time.Second
	consoleLimit    = 1 << 20
)

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
	// PowerOffGrace is how long init has to end when it is asked to. Default 10 s.
	PowerOffGrace time.Duration
	// Logger is told of machines that start and end. Default slog.Default.
	Logger *slog.Logger
}

// Hypervisor implements machine.Hypervisor.
type Hypervisor struct {
	config  Config
	cgroups *cgroups
	exited  chan string

	closing chan struct{}
	tasks   sync.WaitGroup // one per running machine, and the one that trims consoles

	mu      sync.Mutex
	running map[string]*process
}

var _ machine.Hypervisor = (*Hypervisor)(nil)

// New returns a Hypervisor, which must be closed. It needs root. The machines of an earlier one wait to be adopted.
func New(c Config) (*Hypervisor, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("machines made of namespaces need root")
	}
	stateDir, err := filepath.Abs(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("finding the state directory: %w", err)
	}
	c.StateDir = stateDir
	if c.PowerOffGrace == 0 {
		c.PowerOffGrace = defaultGrace
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := os.MkdirAll(filepath.Join(c.StateDir, "machines"), 0o711); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	groups, err := hostCgroups(c.Cluster)
	if err != nil {
		return nil, fmt.Errorf("learning the host's cgroups: %w", err)
	}
	h := &Hypervisor{
		config:  c,
		cgroups: groups,
		exited:  make(chan string),
		closing: make(chan struct{}),
		running: map[string]*process{},
	}
	h.tasks.Go(h.trimConsoles)
	return h, nil
}

// Close lets go of the machines, which go on running, and waits for the Hypervisor's goroutines. No other method may be
// called afterwards.
func (h *Hypervisor) Close() {
	close(h.closing)
	h.mu.Lock()
	for _, p := range h.running {
		p.release()
	}
	h.mu.Unlock()
	h.tasks.Wait()
}

// Exited implements machine.Hypervisor.
func (h *Hypervisor) Exited() <-chan string { return h.exited }

// Machines returns the IDs of all machines of which there is anything left, running or not.
func (h *Hypervisor) Machines() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.config.StateDir, "machines"))
	if err != nil {
		return nil, fmt.Errorf("listing machines: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Start implements machine.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, m machine.Spec) error {
	if h.process(m.ID) != nil {
		return nil
	}
	begin := time.Now()
	if err := h.start(ctx, m); err != nil {
		return fmt.Errorf("starting machine %s: %w", m.ID, err)
	}
	h.config.Logger.Info("machine started", "instance", m.ID, "took", time.Since(begin))
	return nil
}

func (h *Hypervisor) start(ctx context.Context, m machine.Spec) error {
	if !filepath.IsLocal(m.ID) || filepath.Base(m.ID) != m.ID {
		return fmt.Errorf("the ID is no file name")
	}
	if err := os.Mkdir(h.dir(m.ID), 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := writeJSON(filepath.Join(h.dir(m.ID), specFile), m); err != nil {
		return fmt.Errorf("keeping its specification: %w", err)
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
	if p := h.process(id); p != nil {
		if err := h.end(ctx, p, force); err != nil {
			return fmt.Errorf("powering off machine %s: %w", id, err)
		}
	}
	// A machine that was never adopted, or whose start was interrupted.
	if err := h.killUnadopted(ctx, id); err != nil {
		return fmt.Errorf("powering off machine %s: %w", id, err)
	}
	if err := h.cgroups.remove(ctx, id); err != nil {
		return fmt.Errorf("powering off machine %s: %w", id, err)
	}
	return nil
}

// end ends a running machine and waits until it is gone.
func (h *Hypervisor) end(ctx context.Context, p *process, force bool) error {
	p.expect()
	if !force {
		if err := p.signal(PowerOffSignal); err != nil {
			return err
		}
		select {
		case <-p.gone:
			return nil
		case <-time.After(h.config.PowerOffGrace):
			h.config.Logger.Warn("machine does not power off, killing it", "instance", p.id)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for its processes to die: %w", ctx.Err())
	}
}

// Remove implements machine.Hypervisor.
func (h *Hypervisor) Remove(ctx context.Context, id string) error {
	if err := h.PowerOff(ctx, id, true); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	m, err := h.readSpec(id)
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
	if err := os.RemoveAll(filepath.Join(h.dir(id), rootDir)); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	if err := os.RemoveAll(h.dir(id)); err != nil {
		return fmt.Errorf("removing machine %s: %w", id, err)
	}
	return nil
}

// trimConsoles keeps the consoles of running machines from filling the disk.
func (h *Hypervisor) trimConsoles() {
	ticker := time.NewTicker(consoleInterval)
	defer ticker.Stop()
	for {
		select {
		case <-h.closing:
			return
		case <-ticker.C:
		}
		h.mu.Lock()
		var ids []string
		for id := range h.running {
			ids = append(ids, id)
		}
		h.mu.Unlock()
		for _, id := range ids {
			if err := trimConsole(filepath.Join(h.dir(id), consoleFile), consoleLimit); err != nil {
				h.config.Logger.Warn("trimming a console", "instance", id, "error", err)
			}
		}
	}
}
