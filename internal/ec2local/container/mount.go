package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// devices are what a machine has in /dev, all of them harmless to the host: kmsg because a kubelet reads it, fuse and
// net/tun because pods may be given them.
var devices = []device{
	{"null", 1, 3, 0o666}, {"zero", 1, 5, 0o666}, {"full", 1, 7, 0o666}, {"random", 1, 8, 0o666},
	{"urandom", 1, 9, 0o666}, {"kmsg", 1, 11, 0o644}, {"tty", 5, 0, 0o666}, {"fuse", 10, 229, 0o666},
	{"net/tun", 10, 200, 0o666},
}

type device struct {
	name         string
	major, minor uint32
	mode         fs.FileMode
}

// gpus are nodes where NVIDIA's driver has a GPU each. They are the null device by another name.
func gpus(n int) []device {
	var all []device
	for i := range n {
		all = append(all, device{fmt.Sprintf("nvidia%d", i), 1, 3, 0o666})
	}
	return all
}

// hidden are files of /proc through which the whole host could be switched off or read.
var hidden = []string{"proc/kcore", "proc/sysrq-trigger"}

// mountAll mounts everything that the machine sees, below its root. It runs in the machine's namespaces, before the
// root is changed.
func mountAll(p plan) error {
	// What is mounted from here on is nobody else's.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := bind(p.Root, p.Root); err != nil { // pivot_root wants a mount
		return err
	}
	for name, from := range p.Binds {
		if err := bindReadOnly(from, filepath.Join(p.Root, name)); err != nil {
			return err
		}
	}
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`) // of overlayfs' options
	for name, over := range p.Merged {
		lower := "lowerdir=" + escape.Replace(over) + ":/" + name
		if err := mount("overlay", filepath.Join(p.Root, name), "overlay", unix.MS_RDONLY, lower); err != nil {
			return err
		}
	}
	steps := []func(plan) error{mountKernel, mountDev, mountRun, mountShares, mountUncovered, mountCgroups, hideKernelFiles}
	for _, step := range steps {
		if err := step(p); err != nil {
			return err
		}
	}
	return nil
}

// mountKernel mounts /proc and /sys.
func mountKernel(p plan) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("proc", filepath.Join(p.Root, "proc"), "proc", safe, ""); err != nil {
		return err
	}
	// Read-only as a mount: the file system itself is the same one that pods of the host's network namespace mount.
	sys := filepath.Join(p.Root, "sys")
	if err := mount("sysfs", sys, "sysfs", safe, ""); err != nil {
		return err
	}
	return readOnly(sys)
}

// mountDev makes a /dev of the machine's own.
func mountDev(p plan) error {
	dev := filepath.Join(p.Root, "dev")
	if err := mount("devtmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755,size=65536k"); err != nil {
		return err
	}
	for _, dir := range []string{"net", "pts", "shm", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	for _, d := range append(slices.Clone(devices), gpus(p.GPUs)...) {
		path := filepath.Join(dev, d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|uint32(d.mode), int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
	}
	links := map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "core": "/proc/kcore",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC
	return errors.Join(
		mount("devpts", filepath.Join(dev, "pts"), "devpts", safe, "newinstance,ptmxmode=0666,mode=620,gid=5"),
		mount("shm", filepath.Join(dev, "shm"), "tmpfs", safe|unix.MS_NODEV, "mode=1777"),
		mount("mqueue", filepath.Join(dev, "mqueue"), "mqueue", safe|unix.MS_NODEV, ""),
	)
}

// mountRun makes /run empty at each start.
func mountRun(p plan) error {
	return mount("tmpfs", filepath.Join(p.Root, "run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
}

// mountShares makes directories of the host appear where a computer would have mounted those of a file server. It comes
// after /run, below which they may be.
func mountShares(p plan) error {
	for name, from := range p.Shares {
		at := filepath.Join(p.Root, name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := bindReadOnly(from, at); err != nil {
			return err
		}
	}
	return nil
}

// mountUncovered mounts /proc and /sys a second time, aside, with nothing over them. Of a user namespace, such as that of
// a pod with hostUsers: false, the kernel wants that it sees them whole before it lets it mount its own.
func mountUncovered(p plan) error {
	dir := filepath.Join(p.Root, "run/uncovered")
	if err := os.Mkdir(dir, 0o700); err != nil { // root alone finds what is hidden in /proc
		return err
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for name, kind := range map[string]string{"proc": "proc", "sys": "sysfs"} {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o700); err != nil {
			return err
		}
		if err := mount(kind, at, kind, safe, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroups mounts the hierarchies of the host anew: inside the cgroup namespace their root is the machine's cgroup.
func mountCgroups(p plan) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	top := filepath.Join(p.Root, "sys/fs/cgroup")
	if len(p.CgroupsV1) == 0 {
		if err := mount("cgroup2", top, "cgroup2", safe, ""); err != nil {
			return err
		}
		return enableControllers(top)
	}
	if err := mount("tmpfs", top, "tmpfs", safe, "mode=755"); err != nil {
		return err
	}
	for name, options := range p.CgroupsV1 {
		dir := filepath.Join(top, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := mount("cgroup", dir, "cgroup", safe, options); err != nil {
			return err
		}
		controllers := strings.Split(name, ",")
		if len(controllers) == 1 {
			continue
		}
		for _, c := range controllers { // as systemd does: cpu -> cpu,cpuacct
			if err := os.Symlink(name, filepath.Join(top, c)); err != nil {
				return err
			}
		}
	}
	return nil
}

// enableControllers lets the machine use cgroup version 2's controllers for cgroups of its own, as systemd would. It
// moves this process into a child cgroup, since one that hands out controllers must not have processes itself.
func enableControllers(top string) error {
	leaf := filepath.Join(top, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := write(filepath.Join(leaf, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		return fmt.Errorf("entering the init cgroup: %w", err)
	}
	controllers, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		if err := write(filepath.Join(top, "cgroup.subtree_control"), "+"+name); err != nil {
			return fmt.Errorf("enabling cgroup controller %s: %w", name, err)
		}
	}
	return nil
}

// hideKernelFiles protects what is the whole host's in /proc and shows the machine's own numbers.
func hideKernelFiles(p plan) error {
	// What belongs to the network and IPC namespaces stays writable, as mounts of its own.
	sysctl := filepath.Join(p.Root, "proc/sys")
	if err := bind(sysctl, sysctl); err != nil {
		return err
	}
	writable := []string{"net", "fs/mqueue"}
	for _, name := range []string{
		"hostname", "domainname", "msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced",
		"msg_next_id", "sem_next_id", "shm_next_id", "auto_msgmni",
	} {
		writable = append(writable, "kernel/"+name)
	}
	for _, name := range writable {
		path := filepath.Join(sysctl, name)
		if err := bind(path, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := readOnly(sysctl); err != nil {
		return err
	}
	for _, name := range p.KernelFiles {
		if err := bind(filepath.Join(p.KernelDir, name), filepath.Join(p.Root, name)); err != nil {
			return err
		}
	}
	for _, name := range hidden {
		err := bind(filepath.Join(p.Root, "dev/null"), filepath.Join(p.Root, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not every kernel has them
			return err
		}
	}
	return nil
}

// pivot makes root the root of everything. The mounts of the host are gone afterwards.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// The old root ends up on top of the new one, and is taken from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the host's file systems: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Mounts of containers propagate to the machine and to each other as they do after systemd's start.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("making mounts shared: %w", err)
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", kind, target, err)
	}
	return nil
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", from, to, err)
	}
	return nil
}

// bindReadOnly binds a directory with all that is mounted below it.
func bindReadOnly(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", from, to, err)
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, to, unix.AT_RECURSIVE, attr); err != nil {
		return fmt.Errorf("making %s read-only: %w", to, err)
	}
	return nil
}

// readOnly makes this one mount read-only, not those below it.
func readOnly(target string) error {
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, 0, attr); err != nil {
		return fmt.Errorf("making %s read-only: %w", target, err)
	}
	return nil
}
