package imagecache

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKept plays systemd: what it is given it hands out to the next agent.
func TestKept(t *testing.T) {
	t.Setenv("LISTEN_PID", "")
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, []byte("layers"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	t.Setenv("NOTIFY_SOCKET", "")
	if err := keep(f); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	if err := keep(f); err != nil {
		t.Fatal(err)
	}
	message, rights := make([]byte, 200), make([]byte, 200)
	n, rightsN, _, _, err := manager.ReadMsgUnix(message, rights)
	if err != nil || string(message[:n]) != "FDSTORE=1\nFDPOLL=0\nFDNAME=kip-layers" {
		t.Fatalf("%q, %v", message[:n], err)
	}
	control, err := unix.ParseSocketControlMessage(rights[:rightsN])
	if err != nil || len(control) != 1 {
		t.Fatalf("%v, %v", control, err)
	}
	fds, err := unix.ParseUnixRights(&control[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}

	if got := kept(); got != nil {
		t.Error("a descriptor that is another process'")
	}
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("LISTEN_FDNAMES", strings.Repeat("other:", fds[0]-firstKept)+keptName)
	got := kept()
	if got == nil {
		t.Fatal("the descriptor is not found")
	}
	defer got.Close()
	content := make([]byte, 10)
	if n, _ := got.Read(content); string(content[:n]) != "layers" {
		t.Errorf("it has %q", content[:n])
	}
}
