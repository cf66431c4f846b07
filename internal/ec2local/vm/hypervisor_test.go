package vm

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// TestMachine runs Kip's own machine image: it boots, gets its address, outlives its hypervisor, ends when its button
// is pressed, keeps its disk, and leaves nothing behind. Emulated it takes half a minute of the processor.
func TestMachine(t *testing.T) {
	config, m := testMachine(t, builtImage(t))
	open := func() *Hypervisor {
		h, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := open()
	defer func() { h.Close() }()
	if err := h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	defer func() { removeMachine(t, h, m) }()
	awaitConsole(t, h, m.ID, "kip: has the address 10.222.0.7", 1)
	// The agent asks for metadata, of which there is none, for as long as it takes.
	awaitConsole(t, h, m.ID, "asking the metadata service", 1)

	h.Close()
	h = open()
	if running, err := h.Adopt(t.Context(), m); err != nil || !running {
		t.Fatalf("after another start of the hypervisor the machine runs: %t, %v", running, err)
	}
	if err := h.PowerOff(t.Context(), m.ID, false); err != nil {
		t.Fatal(err)
	}
	awaitConsole(t, h, m.ID, "power button", 1)
	select {
	case id := <-h.Exited():
		t.Errorf("the end of %s, which was asked for, is reported", id)
	default:
	}

	if err := h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	awaitConsole(t, h, m.ID, "kip: starting the agent", 2)
	if console, err := h.Console(m.ID); err != nil || bytes.Count(console, []byte("made a file system")) != 1 {
		t.Errorf("the second start did not find the disk of the first: %v\n%s", err, console)
	}
}

// TestFirmware boots the disk of Kip's own machine image by itself, as EC2 does: what is beside it is not there. The
// firmware writes to the disk, as it is larger than its partition table says; the machine boots once more all the same.
func TestFirmware(t *testing.T) {
	built := builtImage(t)
	image := t.TempDir()
	if err := os.Symlink(filepath.Join(built, imageDisk), filepath.Join(image, imageDisk)); err != nil {
		t.Fatal(err)
	}
	config, m := testMachine(t, image)
	h, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	defer func() { removeMachine(t, h, m) }()
	awaitConsole(t, h, m.ID, "kip: has the address 10.222.0.7", 1)
	awaitConsole(t, h, m.ID, "asking the metadata service", 1)
	if err := h.PowerOff(t.Context(), m.ID, false); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	awaitConsole(t, h, m.ID, "kip: starting the agent", 2)
	if console, err := h.Console(m.ID); err != nil || bytes.Count(console, []byte("made a file system")) != 1 {
		t.Errorf("the second start did not find the disk of the first: %v\n%s", err, console)
	}
}

// builtImage is the image of make cell-image.
func builtImage(t testing.TB) string {
	t.Helper()
	image, err := filepath.Abs("../../../.cache/cell-image")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("KIP_VM") != "1" || os.Geteuid() != 0 || !IsImage(image) {
		t.Skip("virtual machines run as root with KIP_VM=1 and the image of make cell-image: make test-vm")
	}
	return image
}

// testMachine is a machine in a network of its own, and what its hypervisor is made of.
func testMachine(t testing.TB, image string) (Config, machine.Spec) {
	t.Helper()
	network, err := vpcnet.Open(t.Context(), vpcnet.Config{Cluster: "vmtest", CIDR: netip.MustParsePrefix("10.222.0.0/16")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return Config{Dir: t.TempDir(), Network: network, PowerOffGrace: 2 * time.Minute}, machine.Spec{
		ID: "i-0123456789abcdef0", Hostname: "ip-10-222-0-7", Image: image, VCPUs: 2, MemoryMiB: 1024, RootVolumeGiB: 4,
		NIC: machine.NIC{
			MAC: "02:00:00:00:00:07", Device: "i-vm7", PrimaryIP: netip.MustParsePrefix("10.222.0.7/20"),
			SecondaryIPs: []netip.Addr{netip.MustParseAddr("10.222.0.8")}, Gateway: netip.MustParseAddr("10.222.0.1"),
		},
	}
}

// removeMachine ends it, and looks for what is left.
func removeMachine(t testing.TB, h *Hypervisor, m machine.Spec) {
	t.Helper()
	if err := h.Remove(context.Background(), m.ID); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(h.config.Dir); err != nil || len(left) > 0 {
		t.Errorf("left in the directory of machines: %v, %v", left, err)
	}
}

// awaitConsole waits until the machine has said something so many times.
func awaitConsole(t testing.TB, h *Hypervisor, id, text string, times int) {
	t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		console, err := h.Console(id)
		if err == nil && strings.Count(string(console), text) >= times {
			return
		}
		if time.Now().After(deadline) || !h.keeper.Running(id) {
			t.Fatalf("it did not say %q %d times: %v\n%s", text, times, err, console)
		}
	}
}
