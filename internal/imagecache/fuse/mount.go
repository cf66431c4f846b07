package fuse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mount mounts a file system at dir and returns the descriptor that its requests
// are read from. The mount works for as long as any process has the descriptor
// open, and waits while none serves it.
func Mount(dir string) (*os.File, error) {
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		// The kernel loads the module, which makes the device, for whoever
		// mounts such a file system, and this mount lacks all that one needs.
		_ = unix.Mount("kip-layers", dir, "fuse", 0, "")
		device, err = os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("mounting a FUSE file system: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d", device.Fd(), maxRead)
	err = unix.Mount("kip-layers", dir, "fuse", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	if err != nil {
		device.Close()
		return nil, fmt.Errorf("mounting a FUSE file system at %s: %w", dir, err)
	}
	return device, nil
}
