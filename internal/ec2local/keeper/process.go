package keeper

import (
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
)

// identity is what the process of a machine is known by on the host. The process ID alone may be someone else's later.
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

// Process is the process of a running machine: its first one, or the emulator.
type Process struct {
	id    string
	pidfd *os.File
	child *exec.Cmd // nil if it is not our child

	gone    chan struct{} // closed when it has ended and no process of the machine is left
	mu      sync.Mutex
	expects bool // its end is ours
}

// Introduce writes down who a machine's process is. The process, which was just started by the caller, must still wait
// for the caller: nothing runs that is not written down. After an error, or with Discard, it is ended.
func (k *Keeper) Introduce(id string, child *exec.Cmd) (*Process, error) {
	who, err := identify(child.Process.Pid)
	if err == nil {
		err = writeJSON(filepath.Join(k.Dir(id), processFile), who)
	}
	var p *Process
	if err == nil {
		p, err = openProcess(id, who)
	}
	if err != nil {
		return nil, errors.Join(err, k.end(id, child))
	}
	p.child = child
	return p, nil
}

// Discard ends a process that was introduced and is not to be watched.
func (k *Keeper) Discard(p *Process) error {
	defer p.release()
	return k.end(p.id, p.child)
}

func (k *Keeper) end(id string, child *exec.Cmd) error {
	_ = child.Process.Kill()
	_ = child.Wait()
	return removeFile(filepath.Join(k.Dir(id), processFile))
}

// openProcess returns the machine's process, if it is the one that was written down and still runs. The error wraps
// fs.ErrNotExist otherwise.
func openProcess(id string, who identity) (*Process, error) {
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
	return &Process{id: id, pidfd: pidfd, gone: make(chan struct{})}, nil
}

// Signal sends a signal, unless the process has ended.
func (p *Process) Signal(s unix.Signal) error {
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

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	var ended bool
	err = raw.Control(func(fd uintptr) { ended = readable(fd) })
	return ended || err != nil
}

// readable says that of a pidfd: when the process has ended. There is nothing to read.
func readable(pidfd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// wait returns true once the process has ended, and false if it was released first.
func (p *Process) wait() bool {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(readable)
	if err != nil {
		return false
	}
	if p.child != nil {
		_ = p.child.Wait() // how it ended does not matter
	}
	return true
}

// release gives the process up; it goes on.
func (p *Process) release() { p.pidfd.Close() }

// expect says that the end of the process is no news.
func (p *Process) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expects = true
}

func (p *Process) expected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expects
}
