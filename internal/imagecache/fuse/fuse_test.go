package fuse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets this binary play the process that serves: the tests read what is
// served, which no process may do that serves it itself, and kill it. It says
// "ready" and serves descriptor 3 until it is killed.
func TestMain(m *testing.M) {
	if os.Getenv("KIP_TEST_SERVE") == "" {
		os.Exit(m.Run())
	}
	fmt.Println("ready")
	err := NewServer(os.NewFile(3, "fuse"), played{hang: os.Getenv("KIP_TEST_SERVE") == "hang"}, slog.Default()).Serve(context.Background())
	fmt.Println(err)
	os.Exit(2)
}

// data is what is in file 7.
var data = random(1<<20 + 123)

// broken is a file that can be read up to here only.
const (
	broken   = 9
	brokenAt = 8192
)

// played are the Files that the tests have served.
type played struct {
	// hang: no read is answered; "asked" is said of each.
	hang bool
}

func (played) Size(number uint64) (int64, bool) {
	switch number {
	case 0:
		return 0, true
	case 7, broken:
		return int64(len(data)), true
	}
	return 0, false
}

func (p played) ReadAt(number uint64, b []byte, offset int64) (int, error) {
	if p.hang {
		fmt.Println("asked")
		select {}
	}
	if number == 0 {
		return 0, io.EOF
	}
	if number == broken && offset >= brokenAt {
		return 0, errors.New("broken")
	}
	return bytes.NewReader(data).ReadAt(b, offset)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no /dev/fuse")
	}
}

// mounted mounts a file system that is gone when the test ends.
func mounted(t *testing.T) (string, *os.File) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	device, err := Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// By force: who still reads is told so, and nobody hangs.
		if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		device.Close()
	})
	return dir, device
}

// serve starts a process that serves, which is killed at the end of the test, or
// by calling kill. The scanner has what it says.
func serve(t *testing.T, device *os.File, how string) (kill func(), says *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KIP_TEST_SERVE="+how)
	cmd.ExtraFiles = []*os.File{device}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	says = bufio.NewScanner(out)
	if !says.Scan() || says.Text() != "ready" {
		t.Fatalf("the server says %q", says.Text())
	}
	return kill, says
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

func TestRead(t *testing.T) {
	dir, device := mounted(t)
	serve(t, device, "well")

	got, err := os.ReadFile(filepath.Join(dir, "7"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	f, err := os.Open(filepath.Join(dir, "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part := make([]byte, 100)
	if n, err := f.ReadAt(part, int64(len(data)-60)); n != 60 || err != io.EOF || !bytes.Equal(part[:60], data[len(data)-60:]) {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	if empty, err := os.ReadFile(filepath.Join(dir, "0")); err != nil || len(empty) != 0 {
		t.Errorf("the empty file: %d bytes, %v", len(empty), err)
	}
	for _, name := range []string{"8", "x", "4294967303"} {
		if _, err := os.ReadFile(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want %v", name, err, os.ErrNotExist)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "11"), nil, 0o600); err == nil {
		t.Error("making a file succeeded")
	}
}

func TestReadError(t *testing.T) {
	dir, device := mounted(t)
	serve(t, device, "well")
	f, err := os.Open(filepath.Join(dir, "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part := make([]byte, 4096)
	if _, err := f.ReadAt(part, 0); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(part, brokenAt); !errors.Is(err, unix.EIO) {
		t.Errorf("%v, want EIO", err)
	}
}

// TestServerKilled: readers of a file live through the death of the process that
// serves it, whether it dies between reads or in the middle of one.
func TestServerKilled(t *testing.T) {
	dir, device := mounted(t)
	kill, _ := serve(t, device, "well")
	// A file is closed once, so that the kernel knows that this needs no answer:
	// a process that is forked while nobody answers closes its copies.
	if _, err := os.ReadFile(filepath.Join(dir, "7")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "7"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(data))
	if _, err := f.ReadAt(got[:4096], 0); err != nil {
		t.Fatal(err)
	}
	kill()

	kill, says := serve(t, device, "hang")
	read := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(got, 0)
		read <- err
	}()
	if !says.Scan() || says.Text() != "asked" {
		t.Fatalf("the second server says %q", says.Text())
	}
	kill()
	select {
	case err := <-read:
		t.Fatalf("the read ended with its server: %v", err)
	default:
	}

	serve(t, device, "well")
	if err := <-read; err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the third server's start: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	whole := append(native.AppendUint32(nil, inHeaderSize), make([]byte, inHeaderSize-4)...)
	if _, ok := parse(whole); !ok {
		t.Error("a request without a body is refused")
	}
	for name, data := range map[string][]byte{"nothing": nil, "half a header": whole[:20], "more than it says": append(whole, 0)} {
		if _, ok := parse(data); ok {
			t.Errorf("%s is taken for a request", name)
		}
	}
}
