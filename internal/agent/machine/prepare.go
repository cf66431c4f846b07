package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// IsInit says whether this process is the machine's first one.
func IsInit() bool { return os.Getpid() == 1 }

// mount is a file system that containerd, the kubelet or containers rely on.
type mount struct {
	kind, target, options string
	// probe exists where somebody mounted it, or something as good, before.
	probe string
}

var mounts = []mount{
	{kind: "proc", target: "/proc", probe: "/proc/self"},
	{kind: "sysfs", target: "/sys", probe: "/sys/kernel"},
	{kind: "devtmpfs", target: "/dev", probe: "/dev/null"},
	{kind: "devpts", target: "/dev/pts", options: "gid=5,mode=620,ptmxmode=666", probe: "/dev/pts/ptmx"},
	{kind: "tmpfs", target: "/dev/shm", options: "mode=1777", probe: "/dev/shm"},
	{kind: "tmpfs", target: "/run", options: "mode=755", probe: "/run"},
	{kind: "cgroup2", target: "/sys/fs/cgroup", probe: "/sys/fs/cgroup/*"},
}

// Prepare makes the machine fit for containers. Only PID 1 may call it, once,
// before anything is started.
func Prepare() error {
	for _, m := range mounts {
		if found, _ := filepath.Glob(m.probe); len(found) > 0 {
			continue
		}
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("preparing the machine: %w", err)
		}
		if err := unix.Mount(m.kind, m.target, m.kind, unix.MS_NOSUID, m.options); err != nil {
			return fmt.Errorf("preparing the machine: mounting %s: %w", m.target, err)
		}
	}
	// The network namespaces that containerd keeps below /run, and volumes
	// that containers mount for each other, must be seen by all of the
	// machine's mount namespaces: shared propagation, as everywhere where an
	// init starts containers.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("preparing the machine: sharing mounts: %w", err)
	}
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("preparing the machine: raising the loopback: %w", err)
	}
	// As many open files as the kernel lets processes have: what containers
	// may open is what their ancestors could.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		files.Cur = files.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &files)
	}
	return ensureHosts("/etc/hosts")
}

func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, request); err != nil {
		return err
	}
	if request.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}

// ensureHosts writes a hosts file where there is none: host-network pods get a
// copy of it.
func ensureHosts(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("preparing the machine: %w", err)
	}
	defer f.Close()
	_, err = f.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	return err
}

// MayLowerOOMScore says whether this machine's processes may be given a lower
// OOM score than they have. Where not, runc and the kubelet must not try.
func MayLowerOOMScore() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
