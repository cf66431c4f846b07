package machine

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestContainerProcesses(t *testing.T) {
	proc := t.TempDir()
	for pid, p := range map[int]struct{ comm, cmdline string }{
		1:   {"kip-cell", "/sbin/init\x00"},
		2:   {"kthreadd", ""},
		100: {"containerd", "/opt/kip/bin/containerd\x00"},
		200: {"containerd-shim", "/opt/kip/bin/containerd-shim-runc-v2\x00"},
		300: {"pause", "/pause\x00"},
		400: {"nginx", "nginx\x00"},
	} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(filepath.Join(dir, "comm"), []byte(p.comm+"\n"), 0o644)
		_ = os.WriteFile(filepath.Join(dir, "cmdline"), []byte(p.cmdline), 0o644)
	}
	if diff := cmp.Diff([]int{300, 400}, containerProcesses(proc)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestEnsureHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	for range 2 {
		if err := ensureHosts(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ensureHosts(path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Errorf("an existing hosts file was replaced by %q", got)
	}
}

// In a network namespace of its own the loopback is down.
func TestRaiseLoopback(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	const inside = "KIP_TEST_NAMESPACE"
	if os.Getenv(inside) != "" {
		for range 2 {
			if err := raiseLoopback(); err != nil {
				t.Fatal(err)
			}
		}
		lo, err := net.InterfaceByName("lo")
		if err != nil || lo.Flags&net.FlagUp == 0 {
			t.Errorf("the loopback is %v, %v", lo, err)
		}
		return
	}
	cmd := exec.Command("unshare", "--net", os.Args[0], "-test.run=^TestRaiseLoopback$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
