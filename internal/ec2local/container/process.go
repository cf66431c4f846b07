package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// identity is what process 1 of a machine is known by on the host. The process ID alone may be someone else's later.
type identity struct {
	PID int
	// StartTime is when the process started, in clock ticks since the host's boot (proc(5), field 22 of stat).
	StartTime uint64
	// Boot is the host's boot ID.
	Boot string
}

// identify returns the identity of the process that has this ID now.
func identify(pid int) (identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, err
	}
	// The second field is the program's name, in parentheses and with any characters.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return identity{}, fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return identity{}, fmt.Errorf("reading the start time of process %d: %w", pid, err)
	}
	return identity{PID: pid, StartTime: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// process is process 1 of a running machine.
type process struct {
	id    string
	pidfd *os.File
	child *exec.Cmd // nil if it is not our child

	gone    chan struct{} // closed when it has ended and no process of the machine is left
	mu      sync.Mutex
	expects bool // its end is ours
}

// openProcess returns the machine's process, if it is the one that was written down and still runs. The error wraps
// fs.ErrNotExist otherwise.
func openProcess(id string, who identity) (*process, error) {
	// The file must not block, so that the runtime's poller waits for it and not a thread.
	fd, err := unix.PidfdOpen(who.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", who.PID, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	// The process that the descriptor stands for cannot be exchanged any more.
	now, err := identify(who.PID)
	if err == nil && now != who {
		err = fs.ErrNotExist
	}
	if err != nil {
		pidfd.Close()
		return nil, err
	}
	return &process{id: id, pidfd: pidfd, gone: make(chan struct{})}, nil
}

// signal sends a signal, unless the process has ended.
func (p *process) signal(s unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	sent := error(unix.ESRCH)
	// Control fails only if the process has ended and the descriptor was released.
	_ = raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	if errors.Is(sent, unix.ESRCH) {
		return nil
	}
	return sent
}

// wait returns true once the process has ended, and false if it was released first.
func (p *process) wait() bool {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	// A pidfd is readable when the process has ended. There is nothing to read.
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n == 1
	})
	if err != nil {
		return false
	}
	if p.child != nil {
		_ = p.child.Wait() // how it ended does not matter
	}
	return true
}

// release gives the process up; it goes on.
func (p *process) release() { p.pidfd.Close() }

// expect says that the end of the process is no news.
func (p *process) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expects = true
}

func (p *process) expected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expects
}

// process returns the running machine, or nil.
func (h *Hypervisor) process(id string) *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running[id]
}

// watch takes charge of a running machine and reports its end.
func (h *Hypervisor) watch(p *process) {
	h.mu.Lock()
	h.running[p.id] = p
	h.mu.Unlock()
	h.tasks.Go(func() {
		if !p.wait() {
			return
		}
		p.release()
		if err := removeFile(filepath.Join(h.dir(p.id), processFile)); err != nil {
			h.config.Logger.Warn("forgetting a process", "instance", p.id, "error", err)
		}
		h.mu.Lock()
		delete(h.running, p.id)
		h.mu.Unlock()
		expected := p.expected()
		close(p.gone)
		h.config.Logger.Info("machine ended", "instance", p.id, "expected", expected)
		if expected {
			return
		}
		select {
		case h.exited <- p.id:
		case <-h.closing:
		}
	})
}

// Adopt implements machine.Hypervisor.
func (h *Hypervisor) Adopt(_ context.Context, m machine.Spec) (running bool, err error) {
	if h.process(m.ID) != nil {
		return true, nil
	}
	p, err := h.findProcess(m.ID)
	if err != nil {
		return false, fmt.Errorf("adopting machine %s: %w", m.ID, err)
	}
	if p == nil {
		return false, nil
	}
	h.watch(p)
	return true, nil
}

// findProcess returns the process that an earlier Hypervisor started, or nil if it does not run any more.
func (h *Hypervisor) findProcess(id string) (*process, error) {
	var who identity
	err := readJSON(filepath.Join(h.dir(id), processFile), &who)
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

// killUnadopted ends a machine that an earlier Hypervisor left running and nobody adopted.
func (h *Hypervisor) killUnadopted(ctx context.Context, id string) error {
	if h.process(id) != nil {
		return nil
	}
	p, err := h.findProcess(id)
	if err != nil || p == nil {
		return err
	}
	p.expect()
	h.watch(p)
	return h.end(ctx, p, true)
}
