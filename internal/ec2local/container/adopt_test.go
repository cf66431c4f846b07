package container_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/container"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// supervisorArg makes the test binary a process that starts machines and waits to be killed.
const supervisorArg = "supervise"

type supervisorOrder struct {
	StateDir string
	Machines []machine.Spec
}

func supervise(order string) {
	err := func() error {
		var o supervisorOrder
		if err := json.Unmarshal([]byte(order), &o); err != nil {
			return err
		}
		ctx := context.Background()
		network, err := vpcnet.Open(ctx, networkConfig())
		if err != nil {
			return err
		}
		h, err := container.New(container.Config{StateDir: o.StateDir, Cluster: clusterName, Network: network})
		if err != nil {
			return err
		}
		for _, m := range o.Machines {
			if err := h.Start(ctx, m); err != nil {
				return err
			}
		}
		return nil
	}()
	fmt.Println("result:", err)
	time.Sleep(time.Hour)
}

// startElsewhere starts machines by a process of their own, which is killed before this returns.
func (w *world) startElsewhere(t *testing.T, machines ...machine.Spec) {
	t.Helper()
	order, err := json.Marshal(supervisorOrder{StateDir: w.config.StateDir, Machines: machines})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", supervisorArg, string(order))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "result: <nil>" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
}

func TestAdopt(t *testing.T) {
	w := newWorld(t)
	lives, ends, dies := w.spec(1), w.spec(2), w.spec(3)
	w.startElsewhere(t, lives, ends, dies)
	if err := unix.Kill(w.process(t, dies), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); alive(w.process(t, dies)) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}

	for m, want := range map[*machine.Spec]bool{&lives: true, &ends: true, &dies: false} {
		for range 2 {
			if running, err := w.h.Adopt(t.Context(), *m); err != nil || running != want {
				t.Errorf("adopting %s: running %t, %v; want %t", m.ID, running, err, want)
			}
		}
	}
	if running, err := w.h.Adopt(t.Context(), w.spec(4)); err != nil || running {
		t.Errorf("adopting a machine that never was: running %t, %v", running, err)
	}
	w.silent(t)
	if i := guest(t, lives); i.Hostname != lives.Hostname {
		t.Errorf("the adopted machine answers as %q", i.Hostname)
	}
	if err := w.h.Start(t.Context(), lives); err != nil {
		t.Errorf("starting an adopted machine: %v", err)
	}
	_, _ = ask(ends, "/exit", nil)
	if id := w.exited(t); id != ends.ID {
		t.Errorf("reported: %s, want %s", id, ends.ID)
	}
	if err := w.h.PowerOff(t.Context(), lives.ID, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.console(t, lives), "asked to power off") {
		t.Error("the adopted machine was not asked to power off")
	}
	w.silent(t)
	if left := processesOf(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

// TestRemoveWithoutAdopting removes running machines that nobody took up, as a clean-up after a crash does.
func TestRemoveWithoutAdopting(t *testing.T) {
	w := newWorld(t)
	m := w.spec(1)
	w.startElsewhere(t, m)
	if len(processesOf(t)) == 0 {
		t.Fatal("the machine did not survive its supervisor")
	}
	if err := w.h.Remove(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	w.silent(t)
}

// TestCloseKeepsMachines closes a Hypervisor and opens another one.
func TestCloseKeepsMachines(t *testing.T) {
	w := newWorld(t)
	m := w.start(t, 1)
	w.h.Close()
	w.open(t)
	if running, err := w.h.Adopt(t.Context(), m); err != nil || !running {
		t.Fatalf("after Close: running %t, %v", running, err)
	}
	guest(t, m)
}

// TestInitWithoutOrder starts the process that should become init and lets its maker vanish.
func TestInitWithoutOrder(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	resultReader, resultWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"kip-machine-init"}
	cmd.ExtraFiles = []*os.File{reader, resultWriter}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader.Close()
	resultWriter.Close()
	writer.Close()
	message, err := io.ReadAll(resultReader)
	if err != nil || !strings.Contains(string(message), "reading the plan") {
		t.Errorf("it said %q, %v", message, err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it succeeded at something")
	}
}
