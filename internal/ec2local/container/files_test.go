package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/elotl/kip/v2/internal/ec2local/keeper"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

func TestMeminfo(t *testing.T) {
	got := meminfo(3904)
	for _, want := range []string{"MemTotal:        3997696 kB\n", "MemAvailable:    3997696 kB\n", "SwapTotal:             0 kB\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestCPUInfo(t *testing.T) {
	const host = "processor\t: 0\nmodel name\t: X\ncore id\t\t: 0\nsiblings\t: 1\n\nprocessor\t: 1\nmodel name\t: X\ncore id\t\t: 1\nsiblings\t: 1\n\n"
	const want = "processor\t: 0\nmodel name\t: X\ncore id\t\t: 0\nsiblings\t: 3\n\n" +
		"processor\t: 1\nmodel name\t: X\ncore id\t\t: 1\nsiblings\t: 3\n\n" +
		"processor\t: 2\nmodel name\t: X\ncore id\t\t: 2\nsiblings\t: 3\n\n"
	if got := cpuinfo(host, 3); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMachineID(t *testing.T) {
	for id, want := range map[string]string{
		"i-0123456789abcdef0":          "000000000000000" + "0123456789abcdef0",
		"i-" + strings.Repeat("a", 40): strings.Repeat("a", 32),
		"zzz":                          strings.Repeat("0", 32),
	} {
		if got := machineID(id); got != want || len(got) != 32 {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
	}
}

func TestMakeDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("looking into a directory of root's")
	}
	image := t.TempDir()
	rootfs := filepath.Join(image, "rootfs")
	for path, content := range map[string]string{
		"opt/kip/bin/kip-cell": "agent", "etc/hostname": "image's own\n", "sbin/init": "init", "var/lib/kip/a": "b",
	} {
		path := filepath.Join(rootfs, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(rootfs, "var/lib/kip/link")); err != nil {
		t.Fatal(err)
	}
	k, err := keeper.New(t.TempDir(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	h := &Hypervisor{keeper: k}
	m := machine.Spec{ID: "i-12", Hostname: "ip-1", Image: image}
	root := filepath.Join(h.keeper.Dir(m.ID), rootDir)
	// An unfinished disk of an earlier attempt is not taken for one.
	if err := os.MkdirAll(filepath.Join(h.keeper.Dir(m.ID), rootDraft, "rubbish"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.makeDisk(m); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"etc/hostname": "image's own\n", "etc/machine-id": strings.Repeat("0", 30) + "12\n", "var/lib/kip/a": "b", "var/lib/kip/link": "b",
	} {
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "var/lib/kip/a")); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode of a copied file: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(root, "tmp")); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("mode of /tmp: %v, %v", info.Mode(), err)
	}
	for _, path := range []string{"opt/kip", "sbin/init", "rubbish"} {
		if _, err := os.Lstat(filepath.Join(root, path)); err == nil {
			t.Errorf("%s is on the disk", path)
		}
	}
	// The second start finds the disk as the machine left it.
	if err := os.WriteFile(filepath.Join(root, "etc/hostname"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.makeDisk(m); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "etc/hostname")); err != nil || string(got) != "changed" {
		t.Errorf("after a second start: %q, %v", got, err)
	}
}
