package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lab is a place for small real processes.
type lab struct {
	t *testing.T
	processes
	dir string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t, processes: processes{pidDir: filepath.Join(dir, "run"), logDir: filepath.Join(dir, "logs")}, dir: dir}
	for _, d := range []string{l.pidDir, l.logDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := l.stop(context.Background(), process{Name: "small", Grace: time.Millisecond}); err != nil {
			t.Error(err)
		}
	})
	return l
}

// program writes a shell script and returns it as a process, which is ready
// when it has made the file "ready" in the lab. It must make that by itself: a
// child would live on when it is killed, and write into a lab that is cleared.
func (l *lab) program(script string) process {
	l.t.Helper()
	path := filepath.Join(l.dir, "program")
	if err := writeFile(path, []byte("#!/bin/sh\ncd "+l.dir+"\n"+script+"\n"), 0o700); err != nil {
		l.t.Fatal(err)
	}
	return process{Name: "small", Path: path, Ready: func(context.Context) error {
		_, err := os.Stat(filepath.Join(l.dir, "ready"))
		return err
	}}
}

func (l *lab) ensured(p process) (running, bool) {
	l.t.Helper()
	started, err := l.ensure(l.t.Context(), p)
	if err != nil {
		l.t.Fatal(err)
	}
	r, alive, err := l.find(p.Name)
	if err != nil || !alive {
		l.t.Fatalf("it does not run: %v", err)
	}
	return r, started
}

const serve = ": >ready; exec sleep 1000"

func TestProcessIsStartedOnce(t *testing.T) {
	l := newLab(t)
	p := l.program(serve)
	first, started := l.ensured(p)
	if !started {
		t.Error("it did not run before")
	}
	// Another command finds it by what is written down. The go command touches a
	// program that it finds up to date.
	l.processes = processes{pidDir: l.pidDir, logDir: l.logDir}
	if err := os.Chtimes(p.Path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if again, started := l.ensured(p); started || again.PID != first.PID {
		t.Errorf("pid %d, then %d", first.PID, again.PID)
	}
	if sid, err := sessionOf(first.PID); err != nil || sid != first.PID {
		t.Errorf("Ctrl-C in the terminal would end it: session %d, %v", sid, err)
	}
}

func sessionOf(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}

func TestProcessIsReplaced(t *testing.T) {
	for name, change := range map[string]func(*lab, *process){
		"other arguments":   func(_ *lab, p *process) { p.Args = []string{"--other"} },
		"other environment": func(_ *lab, p *process) { p.Env = []string{"A=b"} },
		"built anew": func(l *lab, p *process) {
			*p = l.program("# another\n" + serve)
			p.Watch = []string{filepath.Join(l.dir, "config")}
		},
		"configuration": func(l *lab, p *process) {
			if err := os.WriteFile(p.Watch[0], []byte("b"), 0o600); err != nil {
				l.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.program(serve)
			p.Watch = []string{filepath.Join(l.dir, "config")}
			if err := os.WriteFile(p.Watch[0], []byte("a"), 0o600); err != nil {
				t.Fatal(err)
			}
			before, _ := l.ensured(p)
			change(l, &p)
			after, started := l.ensured(p)
			if !started || after.PID == before.PID {
				t.Error("it was not replaced")
			}
			if _, alive := startTime(before.PID); alive {
				t.Error("the old one runs")
			}
		})
	}
}

func TestProcessThatDied(t *testing.T) {
	l := newLab(t)
	p := l.program(serve)
	before, _ := l.ensured(p)
	if err := l.kill("small"); err != nil {
		t.Fatal(err)
	}
	if _, alive, err := l.find("small"); alive || err != nil {
		t.Errorf("alive %t, %v", alive, err)
	}
	if after, started := l.ensured(p); !started || after.PID == before.PID {
		t.Error("it was not started again")
	}
}

// TestPIDOfAnotherProcess: process IDs come round; start times do not.
func TestPIDOfAnotherProcess(t *testing.T) {
	l := newLab(t)
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	record := fmt.Sprintf(`{"pid": %d, "startTime": "1", "spec": "x"}`, other.Process.Pid)
	if err := os.WriteFile(l.pidPath("small"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.kill("small"), l.stop(t.Context(), process{Name: "small"})); err != nil {
		t.Fatal(err)
	}
	if _, alive := startTime(other.Process.Pid); !alive {
		t.Error("a stranger was killed")
	}
}

func TestProcessThatEndsEarly(t *testing.T) {
	for name, script := range map[string]string{
		"at once": "echo wrong flag >&2; exit 3",
		"soon":    "sleep 0.2; echo wrong flag >&2; exit 3",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			_, err := l.ensure(t.Context(), l.program(script))
			if err == nil || !strings.Contains(err.Error(), "wrong flag") || !strings.Contains(err.Error(), "small") {
				t.Errorf("the error must show the end of the log: %v", err)
			}
		})
	}
	t.Run("while another answers", func(t *testing.T) {
		l := newLab(t)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		p := l.program("echo address in use; exit 1")
		p.Ready = func(ctx context.Context) error {
			time.Sleep(200 * time.Millisecond)
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
			if err == nil {
				conn.Close()
			}
			return err
		}
		if _, err := l.ensure(t.Context(), p); err == nil || !strings.Contains(err.Error(), "address in use") {
			t.Errorf("a stranger was taken for it: %v", err)
		}
	})
	t.Run("after it was adopted", func(t *testing.T) {
		l := newLab(t)
		p := l.program(": >ready; sleep 0.3; echo goodbye")
		l.ensured(p)
		p.Ready = func(context.Context) error { return errors.New("not ready") }
		began := time.Now()
		if _, err := l.ensure(t.Context(), p); err == nil || !strings.Contains(err.Error(), "goodbye") {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("noticed after %s", took)
		}
	})
}

func TestProcessThatIsNotReady(t *testing.T) {
	l := newLab(t)
	p := l.program("echo still busy; exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := l.ensure(ctx, p); err == nil || !strings.Contains(err.Error(), "still busy") || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("%v", err)
	}
	if _, alive, _ := l.find("small"); !alive {
		t.Error("it may be slow: a second up finds it")
	}
}

func TestProcessThatIsNotBuilt(t *testing.T) {
	l := newLab(t)
	_, err := l.ensure(t.Context(), process{Name: "small", Path: filepath.Join(l.dir, "none")})
	if err == nil || !strings.Contains(err.Error(), "make tools build") {
		t.Errorf("the error must say what to do: %v", err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "text"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ensure(t.Context(), process{Name: "small", Path: filepath.Join(l.dir, "text")}); err == nil {
		t.Error("a text was started")
	}
}

func TestStop(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, script string
		grace          time.Duration
		atLeast        time.Duration
		want           string
	}{
		"polite":   {"it may clean up", "trap 'echo cleaned up; exit 0' TERM; : >ready; while :; do sleep 0.05; done", 10 * time.Second, 0, "cleaned up"},
		"stubborn": {"it is killed after its grace", "trap '' TERM; : >ready; while :; do sleep 0.05; done", 300 * time.Millisecond, 300 * time.Millisecond, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			p := l.program(tc.script)
			p.Grace = tc.grace
			r, _ := l.ensured(p)
			began := time.Now()
			if err := l.stop(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took < tc.atLeast || took > 5*time.Second {
				t.Errorf("%s: took %s", tc.reason, took)
			}
			if _, alive := startTime(r.PID); alive {
				t.Error("it runs")
			}
			if log := tail(l.logPath("small"), 5); !strings.Contains(log, tc.want) {
				t.Errorf("%s: log %s", tc.reason, log)
			}
			if _, err := os.Stat(l.pidPath("small")); err == nil {
				t.Error("the pid file stays")
			}
			if err := l.stop(t.Context(), p); err != nil {
				t.Errorf("a second time: %v", err)
			}
		})
	}
}

// TestInterruptedStop: Ctrl-C is no reason to kill.
func TestInterruptedStop(t *testing.T) {
	l := newLab(t)
	p := l.program("trap '' TERM; : >ready; while :; do sleep 0.05; done")
	r, _ := l.ensured(p)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.stop(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, alive := startTime(r.PID); !alive {
		t.Error("it was killed")
	}
	if _, alive, _ := l.find("small"); !alive {
		t.Error("it is forgotten")
	}
}

func TestBrokenPIDFile(t *testing.T) {
	l := newLab(t)
	defer os.Remove(l.pidPath("small"))
	if err := os.WriteFile(l.pidPath("small"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ensure(t.Context(), l.program(serve)); err == nil || !strings.Contains(err.Error(), "small") {
		t.Errorf("%v", err)
	}
}

func TestLogIsRotated(t *testing.T) {
	l := newLab(t)
	if err := os.WriteFile(l.logPath("small"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(l.logPath("small"), maxLogBytes+1); err != nil {
		t.Fatal(err)
	}
	l.ensured(l.program(serve))
	if info, err := os.Stat(l.logPath("small")); err != nil || info.Size() > 1000 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Stat(l.logPath("small") + ".1"); err != nil {
		t.Error(err)
	}
}

func TestStartTime(t *testing.T) {
	cmd := exec.Command("sh", "-c", "exit 0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for { // a zombie until Wait
		if _, alive := startTime(cmd.Process.Pid); !alive {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	odd := exec.Command(filepath.Join(t.TempDir(), "a) b (c"), "1000")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := copyProgram(odd.Path, sleep); err != nil {
		t.Fatal(err)
	}
	if err := odd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = odd.Process.Kill(); _ = odd.Wait() }()
	start, alive := startTime(odd.Process.Pid)
	if !alive || strings.Trim(start, "0123456789") != "" || len(start) < 2 {
		t.Errorf("start time %q, %t", start, alive)
	}
}
