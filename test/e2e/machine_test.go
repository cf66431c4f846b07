package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// machine is a cell's instance as this machine sees it: processes in
// namespaces. Tests do with it what somebody does who owns it.
type machine struct {
	id string
	// init is the process ID, on this machine, of the instance's first process.
	init int
}

func machineOf(t *testing.T, cell *v1beta1.Cell) machine {
	t.Helper()
	m, err := findMachine(cell.Status.InstanceID)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// findMachine is machineOf where the instance may be gone.
func findMachine(instance string) (machine, error) {
	data, err := os.ReadFile(filepath.Join(shared.Dir, "ec2", "machines", instance, "process.json"))
	if err != nil {
		return machine{}, err
	}
	var process struct{ PID int }
	if err := json.Unmarshal(data, &process); err != nil {
		return machine{}, err
	}
	return machine{instance, process.PID}, nil
}

// signal signals the instance's first process, if that is still the machine's.
func (m machine) signal(s syscall.Signal) error {
	if !m.has(m.init) {
		return fmt.Errorf("machine %s has ended", m.id)
	}
	return syscall.Kill(m.init, s)
}

// has says whether a process is one of the instance's.
func (m machine) has(pid int) bool {
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return bytes.Contains(groups, []byte("/kip-"+shared.Name+"/"+m.id))
}

// read returns a file of the instance.
func (m machine) read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", m.init, path))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// write replaces a file of the instance.
func (m machine) write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root%s", m.init, path), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a program of this machine in the instance's network.
func (m machine) run(program string, args ...string) (out []byte, err error) {
	err = m.inNetwork(func() error {
		out, err = exec.Command(program, args...).CombinedOutput()
		return err
	})
	return out, err
}

// processes are the IDs of the instance's processes of that name.
func (m machine) processes(t *testing.T, name string) []int {
	t.Helper()
	var found []int
	all, err := allProcesses()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range all {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(comm)) != name[:min(len(name), 15)] {
			continue
		}
		if m.has(pid) {
			found = append(found, pid)
		}
	}
	return found
}

func allProcesses() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// inNetwork runs f on a thread in the instance's network. Sockets that f opens
// stay there.
func (m machine) inNetwork(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		ns, err := netns.GetFromPid(m.init)
		if err != nil {
			result <- err
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// dial connects from within the instance's network.
func (m machine) dial(network, address string) (conn net.Conn, err error) {
	err = m.inNetwork(func() error {
		// A dialer of its own: names are not looked up, so no other thread takes
		// part.
		conn, err = net.Dial(network, address)
		return err
	})
	return conn, err
}
