package process

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// Config describes a Service.
type Config struct {
	// Name is used in messages and in the state report.
	Name    string
	Command Command
	// Log takes what the process writes.
	Log io.Writer
	// Before, if set, runs before every start and holds it back; its error
	// (other than ctx's end) is reported and the start tried all the same, so
	// that the process' own message tells what is wrong.
	Before func(ctx context.Context) error
	// OnStart, if set, is called after every start.
	OnStart func(pid int)
	// StopGrace is how long the process has between SIGTERM and SIGKILL when
	// the Service is stopped. Zero means SIGKILL at once.
	StopGrace time.Duration
	// Backoff paces the restarts of a process that keeps ending.
	Backoff Backoff

	Reaper *Reaper
	Logger *slog.Logger
}

// Service keeps one process running.
type Service struct {
	Config
	output *output

	mu      sync.Mutex
	state   State
	process *Process // while it runs
}

// State is what is known about a service's process.
type State struct {
	Running bool `json:"running"`
	// PID is the process' ID while it runs.
	PID int `json:"pid,omitempty"`
	// StartedAt is when the process was last started.
	StartedAt time.Time `json:"startedAt,omitzero"`
	// Restarts counts the starts after the first one.
	Restarts int `json:"restarts"`
	// LastExit says how the process last ended, empty if it never did.
	LastExit string `json:"lastExit,omitempty"`
}

// NewService returns a Service that starts nothing until Run is called.
func NewService(c Config) *Service {
	return &Service{Config: c, output: newOutput(c.Log)}
}

// State may be called at any time.
func (s *Service) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Kill ends the process at once, if it runs. Run starts it again.
func (s *Service) Kill() {
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	if p != nil {
		_ = p.Signal(syscall.SIGKILL)
	}
}

// LastLines returns the last lines the process wrote, oldest first.
func (s *Service) LastLines() string { return s.output.tail() }

// Run starts the process and starts it again whenever it ends, at once the
// first time and then after growing pauses, until ctx ends. Then it ends the
// process and returns when it is gone.
func (s *Service) Run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		if s.Before != nil {
			if err := s.Before(ctx); err != nil && ctx.Err() == nil {
				s.Logger.Warn("starting without what the service waited for", "service", s.Name, "error", err)
			}
			if ctx.Err() != nil {
				return
			}
		}
		started := time.Now()
		_ = s.RunOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) >= s.Backoff.Settled {
			failures = 0
		}
		failures++
		pause := s.Backoff.after(failures)
		s.Logger.Error("a service ended and is started again", "service", s.Name, "reason", s.State().LastExit,
			"ran", time.Since(started).Round(time.Millisecond).String(), "pause", pause.String(), "lastLines", s.LastLines())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// RunOnce starts the process and returns when it has ended, by itself or because
// ctx ended. The error is nil only for exit status 0.
func (s *Service) RunOnce(ctx context.Context) error {
	read, write, err := os.Pipe()
	if err != nil {
		s.ended(err.Error())
		return err
	}
	command := s.Command
	command.Output = write
	p, err := s.Reaper.Start(command)
	write.Close()
	if err != nil {
		read.Close()
		s.ended(err.Error())
		return err
	}
	s.started(p)
	if s.OnStart != nil {
		s.OnStart(p.PID)
	}

	copied := make(chan struct{})
	go func() {
		defer close(copied)
		// Ends with the pipe's last writer, or with the deadline below.
		_, _ = io.Copy(s.output, read)
	}()

	select {
	case <-p.Ended():
	case <-ctx.Done():
		s.stop(p)
	}
	// A descendant may hold the pipe open; do not wait for it longer than it
	// takes to read what the process itself wrote.
	_ = read.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-copied
	read.Close()

	s.ended(p.Result())
	if !p.Succeeded() {
		return errors.New(p.Result())
	}
	return nil
}

// stop ends the process and waits for it.
func (s *Service) stop(p *Process) {
	if s.StopGrace > 0 && p.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.Ended():
			return
		case <-time.After(s.StopGrace):
			s.Logger.Warn("a service did not end in time and is killed", "service", s.Name, "grace", s.StopGrace.String())
		}
	}
	_ = p.Signal(syscall.SIGKILL)
	<-p.Ended()
}

func (s *Service) started(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.state.StartedAt.IsZero() {
		s.state.Restarts++
	}
	s.process = p
	s.state.Running, s.state.PID, s.state.StartedAt = true, p.PID, time.Now()
}

func (s *Service) ended(how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = nil
	s.state.Running, s.state.PID, s.state.LastExit = false, 0, how
}
