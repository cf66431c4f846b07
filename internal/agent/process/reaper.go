package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// ErrEnded says that a process cannot be signalled because it has ended.
var ErrEnded = errors.New("the process has ended")

// Command describes a process to start.
type Command struct {
	// Path is the program's absolute path, Args its arguments without argv[0].
	Path string
	Args []string
	// Env is the whole environment, "KEY=value".
	Env []string
	// Output becomes the process' standard output and standard error; nil means
	// none. Standard input is always /dev/null.
	Output *os.File
	// Files are its descriptors from 3 on.
	Files []*os.File
}

// Reaper starts processes and waits for all children of this process. A process
// has at most one.
type Reaper struct {
	mu       sync.Mutex
	children map[int]*Process
}

// NewReaper returns a Reaper that waits for nothing until Run is called.
func NewReaper() *Reaper {
	return &Reaper{children: map[int]*Process{}}
}

// Run reaps children until ctx ends. Processes may be started before Run, but
// their end is only noticed while it runs.
func (r *Reaper) Run(ctx context.Context) {
	// One pending signal is enough: SIGCHLD says "look", not how many ended.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for r.reapOne() {
		}
		select {
		case <-ctx.Done():
			return
		case <-ended:
		}
	}
}

// reapOne waits for one ended child, if there is any. It holds the lock, so
// that a process is in the table before its end is seen, and so that no signal
// is sent to a PID that has just been given back to the kernel.
func (r *Reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if p, ours := r.children[pid]; ours {
		delete(r.children, pid)
		p.status = status
		close(p.ended)
	}
	return true
}

// Start starts the command. It returns when the program has been executed, or
// with the reason why it could not be.
func (r *Reaper) Start(c Command) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	defer null.Close()
	output := null
	if c.Output != nil {
		output = c.Output
	}

	files := []uintptr{null.Fd(), output.Fd(), output.Fd()}
	for _, f := range c.Files {
		files = append(files, f.Fd())
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	// ForkExec, not os.StartProcess: that one keeps a handle to wait with, and
	// waiting is the Reaper's.
	pid, err := syscall.ForkExec(c.Path, append([]string{c.Path}, c.Args...), &syscall.ProcAttr{
		Dir:   "/",
		Env:   c.Env,
		Files: files,
		// A session of its own: a signal that reaches the agent's group by a
		// terminal or a service manager does not reach the children.
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Path, err)
	}
	p := &Process{PID: pid, reaper: r, ended: make(chan struct{})}
	r.children[pid] = p
	return p, nil
}

// Process is a child of the agent.
type Process struct {
	PID int

	reaper *Reaper
	ended  chan struct{}
	status syscall.WaitStatus // valid once ended is closed
}

// Ended is closed when the process has ended and has been waited for.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Result says how the process ended, for example "exit status 1" or "signal:
// killed". It may be called once Ended is closed.
func (p *Process) Result() string {
	if p.status.Signaled() {
		return "signal: " + p.status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", p.status.ExitStatus())
}

// Succeeded says whether the process ended with exit status 0. It may be called
// once Ended is closed.
func (p *Process) Succeeded() bool { return p.status.Exited() && p.status.ExitStatus() == 0 }

// Signal sends a signal to the process alone. It returns ErrEnded when the
// process has ended, and never reaches another process that was given its PID.
func (p *Process) Signal(s syscall.Signal) error {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	select {
	case <-p.ended:
		return ErrEnded
	default:
	}
	if err := syscall.Kill(p.PID, s); err != nil {
		return fmt.Errorf("sending %s to process %d: %w", s, p.PID, err)
	}
	return nil
}
