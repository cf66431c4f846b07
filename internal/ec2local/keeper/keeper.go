package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// consoles are looked after every consoleInterval, and cut when they are longer than consoleLimit.
	consoleInterval = 10 * time.Second
	consoleLimit    = 1 << 20

	// defaultGrace is how long machines have to end when they are asked to. EC2 gives some minutes.
	defaultGrace = 10 * time.Second
)

// Keeper keeps the machines of one hypervisor. Calls for the same machine must not overlap.
type Keeper struct {
	dir   string
	grace time.Duration
	log   *slog.Logger

	exited  chan string
	closing chan struct{}
	tasks   sync.WaitGroup // one per running machine, and the one that trims consoles

	mu      sync.Mutex
	running map[string]*Process
}

// New returns a Keeper of the machines in a directory, which it makes if it is missing. It must be closed, and needs
// root, as whatever runs machines here does. grace is how long machines have to end by themselves, 10 s if it is 0; log
// is slog.Default if it is nil.
func New(dir string, grace time.Duration, log *slog.Logger) (*Keeper, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("running machines needs root")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the directory of machines: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("making the directory of machines: %w", err)
	}
	if grace == 0 {
		grace = defaultGrace
	}
	if log == nil {
		log = slog.Default()
	}
	k := &Keeper{
		dir: dir, grace: grace, log: log,
		exited: make(chan string), closing: make(chan struct{}), running: map[string]*Process{},
	}
	k.tasks.Go(k.trimConsoles)
	return k, nil
}

// Close lets go of the machines, which go on running, and waits for the Keeper's goroutines. No other method may be
// called afterwards.
func (k *Keeper) Close() {
	close(k.closing)
	k.mu.Lock()
	for _, p := range k.running {
		p.release()
	}
	k.mu.Unlock()
	k.tasks.Wait()
}

// Log is where the Keeper tells of machines, and its hypervisor may.
func (k *Keeper) Log() *slog.Logger { return k.log }

// Exited delivers the ID of each machine whose process ended and was not ended by End.
func (k *Keeper) Exited() <-chan string { return k.exited }

// Running says whether the machine runs and is watched.
func (k *Keeper) Running(id string) bool { return k.process(id) != nil }

// process returns the running machine's process, or nil.
func (k *Keeper) process(id string) *Process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running[id]
}

// Watch takes charge of a running machine: its end is reported by Exited, and known to End.
func (k *Keeper) Watch(p *Process) {
	k.mu.Lock()
	k.running[p.id] = p
	k.mu.Unlock()
	k.tasks.Go(func() {
		if !p.wait() {
			return
		}
		p.release()
		if err := removeFile(filepath.Join(k.Dir(p.id), processFile)); err != nil {
			k.log.Warn("forgetting a process", "instance", p.id, "error", err)
		}
		k.mu.Lock()
		delete(k.running, p.id)
		k.mu.Unlock()
		expected := p.expected()
		close(p.gone)
		k.log.Info("machine ended", "instance", p.id, "expected", expected)
		if expected {
			return
		}
		select {
		case k.exited <- p.id:
		case <-k.closing:
		}
	})
}

// Adopt takes up a machine that an earlier Keeper started, and says whether it runs.
func (k *Keeper) Adopt(id string) (running bool, err error) {
	if k.process(id) != nil {
		return true, nil
	}
	p, err := k.find(id)
	if err != nil {
		return false, fmt.Errorf("adopting machine %s: %w", id, err)
	}
	if p == nil {
		return false, nil
	}
	k.Watch(p)
	return true, nil
}

// find returns the process that an earlier Keeper wrote down, or nil if it does not run any more.
func (k *Keeper) find(id string) (*Process, error) {
	var who identity
	err := readJSON(filepath.Join(k.Dir(id), processFile), &who)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := openProcess(id, who)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}

// End ends a machine, also one that was never adopted, and waits until its process is gone. If ask is given, it asks
// the machine to end by itself, which is waited for as long as the grace; then the process is killed. A machine that
// does not run is no error.
func (k *Keeper) End(ctx context.Context, id string, ask func(*Process) error) error {
	grace := k.grace
	p := k.process(id)
	if p == nil { // an earlier Keeper's that nobody adopted, or one whose start was interrupted
		var err error
		if p, err = k.find(id); err != nil || p == nil {
			return err
		}
		p.expect()
		k.Watch(p)
		ask = nil
	}
	p.expect()
	if ask != nil {
		if err := ask(p); err != nil {
			k.log.Warn("machine cannot be asked to power off", "instance", id, "error", err)
			grace = 0
		}
		select {
		case <-p.gone:
			return nil
		case <-time.After(grace):
			k.log.Warn("machine does not power off, killing it", "instance", id)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for its processes to die: %w", ctx.Err())
	}
}
