package snapshotter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// MountCommand is the first argument with which this program mounts a layer and
// ends: MountCommand, file, directory.
const MountCommand = "mount-layer"

// MountLayer mounts the EROFS file system in a file. It must run in another
// process than the one that serves the file: mounting reads it.
func MountLayer(file, dir string) error {
	err := unix.Mount(file, dir, "erofs", unix.MS_RDONLY, "")
	if errors.Is(err, unix.ENOTBLK) { // Linux before 6.12, or without EROFS_FS_BACKED_BY_FILE
		err = mountLoop(file, dir)
	}
	if err != nil {
		return fmt.Errorf("mounting a layer: %w", err)
	}
	return nil
}

// mountLoop mounts the file by way of a loop device, which goes when the mount
// does.
func mountLoop(file, dir string) error {
	backing, err := os.Open(file)
	if err != nil {
		return err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("finding a loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", number)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			err = unix.Mount(path, dir, "erofs", unix.MS_RDONLY, "")
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else took the device
			return err
		}
	}
}

// mount has another process mount a layer.
func (s *Snapshotter) mount(ctx context.Context, id uint64) error {
	cmd := exec.CommandContext(ctx, s.cfg.Program, MountCommand, s.layerFile(id), s.store.fs(id))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}

// unmount unmounts what is mounted on a directory, if anything is.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}

// mountedBelow returns the mount points below a directory.
func mountedBelow(dir string) (map[string]bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("looking what is mounted: %w", err)
	}
	defer f.Close()
	found := map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found[fields[4]] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("looking what is mounted: %w", err)
	}
	return found, nil
}
