package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests run real processes: this test binary itself, told by a variable
// what to play. Tests that need a Reaper run in such a child too, because the
// Reaper takes all children of its process for itself.
const role = "KIP_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "exit-3":
		fmt.Println("first line")
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(3)
	case "sleep":
		time.Sleep(time.Minute)
	case "orphan":
		// Leaves a grandchild behind that outlives it for a moment and holds
		// the output open.
		attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Env: []string{role + "=nap"}}
		pid, err := syscall.ForkExec(os.Args[0], os.Args[:1], attr)
		fmt.Println(pid, err)
		os.Exit(0)
	case "nap":
		time.Sleep(300 * time.Millisecond)
	}
}

// inChild runs the body in a process of its own that is a subreaper, as PID 1
// is: orphans come to it.
func inChild(t *testing.T, body func(t *testing.T, r *Reaper)) {
	t.Helper()
	if os.Getenv("KIP_TEST_CHILD") != t.Name() {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "KIP_TEST_CHILD="+t.Name())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := NewReaper()
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	body(t, r)
}

func play(what string) Command {
	return Command{Path: os.Args[0], Env: []string{role + "=" + what}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestReaperKeepsExitStatus(t *testing.T) {
	inChild(t, func(t *testing.T, r *Reaper) {
		var procs []*Process
		for range 30 {
			p, err := r.Start(play("exit-3"))
			if err != nil {
				t.Fatal(err)
			}
			procs = append(procs, p)
		}
		for _, p := range procs {
			<-p.Ended()
			if got := p.Result(); got != "exit status 3" {
				t.Errorf("Result() = %q", got)
			}
			if err := p.Signal(syscall.SIGKILL); !errors.Is(err, ErrEnded) {
				t.Errorf("Signal after the end: %v, want ErrEnded", err)
			}
		}
		if _, err := r.Start(Command{Path: "/does/not/exist"}); err == nil {
			t.Error("Start of a missing program succeeded")
		}
	})
}

func TestReaperCollectsOrphans(t *testing.T) {
	inChild(t, func(t *testing.T, r *Reaper) {
		log := &safeBuffer{}
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := play("orphan")
		c.Output = write
		p, err := r.Start(c)
		if err != nil {
			t.Fatal(err)
		}
		write.Close()
		_, _ = io.Copy(log, read) // until the orphan has ended too
		<-p.Ended()
		orphan, _ := strconv.Atoi(strings.Fields(log.String())[0])
		if orphan <= 1 {
			t.Fatalf("the child said %q", log.String())
		}
		eventually(t, "the orphan is waited for", func() bool { return syscall.Kill(orphan, 0) == syscall.ESRCH })
	})
}

func TestServiceRestarts(t *testing.T) {
	inChild(t, func(t *testing.T, r *Reaper) {
		s := NewService(Config{
			Name: "sleeper", Command: play("sleep"), Reaper: r, StopGrace: 5 * time.Second,
			Backoff: Backoff{First: 100 * time.Millisecond, Longest: time.Second, Settled: time.Hour},
			Logger:  slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		eventually(t, "first start", func() bool { return s.State().Running })

		_ = syscall.Kill(s.State().PID, syscall.SIGKILL)
		eventually(t, "restart", func() bool { return s.State().Running && s.State().Restarts == 1 })
		if got := s.State().LastExit; got != "signal: killed" {
			t.Errorf("LastExit = %q", got)
		}

		killed := time.Now()
		_ = syscall.Kill(s.State().PID, syscall.SIGKILL)
		eventually(t, "second restart", func() bool { return s.State().Running && s.State().Restarts == 2 })
		if took := time.Since(killed); took < 100*time.Millisecond {
			t.Errorf("the second restart took %s, want a pause", took)
		}

		s.Kill()
		eventually(t, "third restart", func() bool { return s.State().Running && s.State().Restarts == 3 })

		pid := s.State().PID
		cancel()
		wg.Wait()
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			t.Errorf("after Run returned the process is still there: %v", err)
		}
	})
}

func TestServiceReportsLastLines(t *testing.T) {
	inChild(t, func(t *testing.T, r *Reaper) {
		var report, log safeBuffer
		before := 0
		s := NewService(Config{
			Name: "failing", Command: play("exit-3"), Log: &log, Reaper: r,
			Backoff: Backoff{First: time.Hour, Longest: time.Hour, Settled: time.Hour},
			Logger:  slog.New(slog.NewTextHandler(&report, nil)),
			Before:  func(context.Context) error { before++; return nil },
		})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		eventually(t, "two failures", func() bool { return strings.Count(report.String(), "exit status 3") == 2 })
		cancel()
		wg.Wait()
		if !strings.Contains(report.String(), `first line\nlast words`) {
			t.Errorf("the report lacks the process' last lines:\n%s", report.String())
		}
		if got := log.String(); got != "first line\nlast words\nfirst line\nlast words\n" {
			t.Errorf("log = %q", got)
		}
		if err := s.RunOnce(context.Background()); err == nil || err.Error() != "exit status 3" {
			t.Errorf("RunOnce: %v, want the exit status", err)
		}
		if before != 2 {
			t.Errorf("Before ran %d times, want before each start", before)
		}
	})
}

// An orphan that holds the service's output open must not delay its restart.
func TestServiceDoesNotWaitForDescendants(t *testing.T) {
	inChild(t, func(t *testing.T, r *Reaper) {
		s := NewService(Config{
			Name: "parent", Command: Command{Path: "/bin/sh", Args: []string{"-c", "sleep 5 & exit 0"}}, Reaper: r,
			Backoff: Backoff{First: time.Hour, Longest: time.Hour}, Logger: slog.New(slog.DiscardHandler),
		})
		start := time.Now()
		if err := s.RunOnce(context.Background()); err != nil {
			t.Errorf("RunOnce of a process that succeeded: %v", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("waited %s for an orphan", took)
		}
	})
}

func TestBackoff(t *testing.T) {
	b := Backoff{First: 200 * time.Millisecond, Longest: time.Second}
	for failures, want := range []time.Duration{0, 0, 200e6, 400e6, 800e6, 1e9, 1e9} {
		if got := b.after(failures); got != want {
			t.Errorf("after(%d) = %s, want %s", failures, got, want)
		}
	}
}

func TestLogFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "x.log")
	for range 2 { // the second time it finds the file of the first
		l, err := OpenLogFile(path, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if _, err := fmt.Fprintf(l, "line %04d\n", i); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	now, _ := os.ReadFile(path)
	old, _ := os.ReadFile(path + ".1")
	if len(now) > 100 || len(old) > 100 || !bytes.HasSuffix(now, []byte("line 0049\n")) || len(old) == 0 {
		t.Errorf("files of %d and %d bytes, ending %q", len(now), len(old), now)
	}
}

func TestOutputTail(t *testing.T) {
	var o = newOutput(nil)
	for i := range 25 {
		fmt.Fprintf(o, "line %d\n%s", i, "par")
		fmt.Fprint(o, "tial\n")
	}
	fmt.Fprint(o, strings.Repeat("x", 2*tailLineBytes))
	lines := strings.Split(o.tail(), "\n")
	if len(lines) != tailLines+1 || lines[tailLines-1] != "partial" || len(lines[tailLines]) != tailLineBytes {
		t.Errorf("tail = %q", lines)
	}
}

// safeBuffer is a buffer that several goroutines may use.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
