package localcluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one program that runs detached: it outlives the command that
// started it, and is found again by its ID and start time.
type process struct {
	Name string
	Path string
	Args []string
	Env  []string

	// Ready is one look whether the process serves; it is repeated.
	Ready func(context.Context) error

	// Watch are files whose change makes the process be replaced, besides the
	// program itself and its arguments.
	Watch []string

	// Grace is how long the process may take to end; 0 means defaultGrace.
	Grace time.Duration
}

const (
	defaultGrace = 10 * time.Second
	// readyTimeout: the slowest, kube-apiserver on a busy machine, takes about
	// 20 s.
	readyTimeout = 2 * time.Minute
	maxLogBytes  = 64 << 20
)

// running is what is written down of a started process.
type running struct {
	PID       int       `json:"pid"`
	StartTime string    `json:"startTime"` // clock ticks since boot, as in /proc
	Spec      string    `json:"spec"`
	Started   time.Time `json:"started"`
}

// processes keeps the pid files and logs of one cluster.
type processes struct {
	pidDir, logDir string
}

func (ps processes) logPath(name string) string { return filepath.Join(ps.logDir, name+".log") }
func (ps processes) pidPath(name string) string { return filepath.Join(ps.pidDir, name+".json") }

// find returns the recorded process if it lives.
func (ps processes) find(name string) (running, bool, error) {
	data, err := os.ReadFile(ps.pidPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return running{}, false, nil
	}
	if err != nil {
		return running{}, false, err
	}
	var r running
	if err := json.Unmarshal(data, &r); err != nil {
		return running{}, false, fmt.Errorf("pid file of %s: %w", name, err)
	}
	start, alive := startTime(r.PID)
	return r, alive && start == r.StartTime, nil
}

// ensure has the process running as specified and ready. It returns whether it
// was started by this call.
func (ps processes) ensure(ctx context.Context, p process) (started bool, err error) {
	spec, err := p.spec()
	if err != nil {
		return false, fmt.Errorf("%s: %w", p.Name, err)
	}
	r, alive, err := ps.find(p.Name)
	if err != nil {
		return false, err
	}
	if alive && r.Spec != spec {
		if err := ps.stop(ctx, p); err != nil {
			return false, err
		}
		alive = false
	}
	exited := make(chan error, 1)
	if !alive {
		if err := ps.start(p, spec, exited); err != nil {
			return false, fmt.Errorf("starting %s: %w", p.Name, err)
		}
	}
	return !alive, ps.awaitReady(ctx, p, exited)
}

func (ps processes) start(p process, spec string, exited chan<- error) error {
	logPath := ps.logPath(p.Name)
	if info, err := os.Stat(logPath); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(logPath, logPath+".1"); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s started %s\n", p.Name, time.Now().Format(time.RFC3339))

	cmd := ps.command(p)
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own: Ctrl-C in the terminal is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// Ends with the process, or with this command; reaps it in between.
	go func() { exited <- cmd.Wait() }()

	start, ok := startTime(cmd.Process.Pid)
	if !ok {
		return fmt.Errorf("it ended at once:\n%s", tail(logPath, 15))
	}
	data, err := json.Marshal(running{PID: cmd.Process.Pid, StartTime: start, Spec: spec, Started: time.Now()})
	if err == nil {
		err = writeFile(ps.pidPath(p.Name), data, 0o600)
	}
	if err != nil {
		// Not written down means never found again.
		return errors.Join(err, cmd.Process.Kill())
	}
	return nil
}

func (ps processes) command(p process) *exec.Cmd {
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + ps.pidDir, "TMPDIR=" + os.TempDir()}, p.Env...)
	return cmd
}

func (ps processes) awaitReady(ctx context.Context, p process, exited <-chan error) error {
	if p.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		probe, done := context.WithTimeout(ctx, 2*time.Second)
		err := p.Ready(probe)
		done()
		// Who answers may be another program on the same port: first of all the
		// process must live.
		_, alive, findErr := ps.find(p.Name)
		if findErr != nil {
			return findErr
		}
		if !alive {
			how := "see its log"
			select {
			case exit := <-exited:
				how = fmt.Sprint(exit)
			case <-time.After(time.Second): // an earlier command's child
			}
			return fmt.Errorf("%s ended (%s); its log (%s) ends with:\n%s", p.Name, how, ps.logPath(p.Name), tail(ps.logPath(p.Name), 15))
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its log (%s) ends with:\n%s", p.Name, err, ps.logPath(p.Name), tail(ps.logPath(p.Name), 15))
		case <-tick.C:
		}
	}
}

// stop ends the process, by force after its grace period, and waits for it.
func (ps processes) stop(ctx context.Context, p process) error {
	r, alive, err := ps.find(p.Name)
	if err != nil {
		return err
	}
	if alive {
		grace := p.Grace
		if grace == 0 {
			grace = defaultGrace
		}
		if err := syscall.Kill(r.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending %s (pid %d): %w", p.Name, r.PID, err)
		}
		if !awaitEnd(ctx, r, grace) {
			if ctx.Err() != nil {
				return fmt.Errorf("waiting for %s (pid %d) to end: %w", p.Name, r.PID, ctx.Err())
			}
			if err := ps.kill(p.Name); err != nil {
				return err
			}
			if !awaitEnd(ctx, r, defaultGrace) {
				return fmt.Errorf("%s (pid %d) does not end", p.Name, r.PID)
			}
		}
	}
	if err := os.Remove(ps.pidPath(p.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// kill sends SIGKILL, as a crash would be.
func (ps processes) kill(name string) error {
	r, alive, err := ps.find(name)
	if err != nil || !alive {
		return err
	}
	if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing %s (pid %d): %w", name, r.PID, err)
	}
	awaitEnd(context.Background(), r, defaultGrace)
	return nil
}

func awaitEnd(ctx context.Context, r running, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if start, alive := startTime(r.PID); !alive || start != r.StartTime {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// startTime is when a process started, which tells it from a later one with
// the same ID. A zombie does not count as alive.
func startTime(pid int) (string, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// The command name, in brackets, may hold anything; fields count from its
	// end: state is the first, start time the 20th.
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", false
	}
	return fields[19], true
}

// spec sums up everything that, when it changes, makes the process be replaced.
func (p process) spec() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q\n", p.Path, p.Args, p.Env)
	for _, path := range append([]string{p.Path}, p.Watch...) {
		sum, err := digest(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %x\n", path, sum)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// digest tells a file from another one by what is in it. Its times say nothing:
// the go command touches a program that it finds up to date.
func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there; make tools build makes the programs: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return h.Sum(nil), nil
}

// tail is the last lines of a file, for error messages.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + strings.Join(all, "\n  ")
}

// writeFile replaces a file whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
