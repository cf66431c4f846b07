package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// rootLabel is the name of the image's root partition.
	rootLabel = "kip-root"
	// dataPartition is what is behind the root partition: it is in the kernel's table only, so that it is always as
	// large as the volume.
	dataPartition = 15

	imageRoot = "/image" // the root file system of the image
	dataRoot  = "/data"  // what is written
	newRoot   = "/root"  // both, one over the other

	sector = 512
	// diskPatience is how long the disk may take to be there. It is on the bus before the kernel's own start ends.
	diskPatience = 30 * time.Second
)

// assembleRoot makes newRoot: the image's file system, read-only, with a writable one over it that is on the rest of the
// disk. /var is on that one itself, because containerd lays file systems over each other as well, and that cannot be
// done twice.
func assembleRoot() error {
	partition, err := findRoot()
	if err != nil {
		return err
	}
	if err := mount(device(partition), imageRoot, "erofs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := mountData(partition); err != nil {
		return err
	}
	for _, dir := range []string{"/upper", "/work", "/var"} {
		if err := os.MkdirAll(dataRoot+dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", imageRoot, dataRoot, dataRoot)
	if err := mount("overlay", newRoot, "overlay", 0, options); err != nil {
		return err
	}
	if err := mount(dataRoot+"/var", newRoot+"/var", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return populate()
}

// populate makes what a system expects of a root file system that is used for the first time.
func populate() error {
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{
		{"/var/cache", 0o755}, {"/var/lib", 0o755}, {"/var/log", 0o755}, {"/var/tmp", 0o777 | os.ModeSticky}, {"/tmp", 0o777 | os.ModeSticky},
	} {
		if err := os.MkdirAll(newRoot+d.name, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(newRoot+d.name, d.mode); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", newRoot+"/var/run"); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := mount("tmpfs", newRoot+"/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	return writeMachineID(newRoot + "/etc/machine-id")
}

// writeMachineID gives the machine the name that the kubelet reports: the UUID that its cloud knows it by, or a random
// one where it has none.
func writeMachineID(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	id, err := os.ReadFile("/sys/class/dmi/id/product_uuid")
	if errors.Is(err, os.ErrNotExist) {
		id, err = os.ReadFile("/proc/sys/kernel/random/uuid")
	}
	if err != nil {
		return fmt.Errorf("reading the machine's UUID: %w", err)
	}
	machineID := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(string(id)), "-", ""))
	return os.WriteFile(path, []byte(machineID+"\n"), 0o444)
}

func device(name string) string { return "/dev/" + name }

// findRoot returns the kernel's name of the image's root partition.
func findRoot() (string, error) {
	for deadline := time.Now().Add(diskPatience); ; time.Sleep(2 * time.Millisecond) {
		devices, err := filepath.Glob("/sys/class/block/*/uevent")
		if err != nil {
			return "", err
		}
		for _, path := range devices {
			if properties(path)["PARTNAME"] == rootLabel {
				return filepath.Base(filepath.Dir(path)), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no disk has a partition %s", rootLabel)
		}
	}
}

// properties reads lines of the form NAME=value.
func properties(path string) map[string]string {
	out := map[string]string{}
	f, err := os.Open(path)
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		out[name] = value
	}
	return out
}

// mountData mounts what is behind the root partition, and makes a file system there if there is none.
func mountData(root string) error {
	// /sys/class/block/PARTITION is a link below the disk's directory.
	link, err := os.Readlink("/sys/class/block/" + root)
	if err != nil {
		return err
	}
	disk := filepath.Base(filepath.Dir(link))
	data, err := addPartition(disk, root)
	if err != nil {
		return fmt.Errorf("taking the rest of the disk: %w", err)
	}
	if !isExt4(device(data)) {
		if err := makeFileSystem(device(data)); err != nil {
			return err
		}
	}
	return mount(device(data), dataRoot, "ext4", unix.MS_NOATIME, "")
}

// addPartition makes the kernel know the disk's space behind a partition as one more, and returns its name.
func addPartition(disk, last string) (string, error) {
	var numbers [3]int64
	for i, path := range []string{last + "/start", last + "/size", disk + "/size"} {
		text, err := os.ReadFile("/sys/class/block/" + path)
		if err != nil {
			return "", err
		}
		if numbers[i], err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return "", err
		}
	}
	const align = 2048 // sectors: 1 MiB
	// Right behind the root partition is the copy of the image's partition table. The disk is larger than the image, so
	// firmware misses a copy at its end, and may write one there anew at every boot.
	begin := (numbers[0]+numbers[1]+align-1)/align*align + align
	end := (numbers[2] - 34) / align * align // the partition table's copy is at the end
	if end <= begin {
		return "", fmt.Errorf("%s has no room behind %s", disk, last)
	}
	f, err := os.OpenFile(device(disk), os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	part := unix.BlkpgPartition{Start: begin * sector, Length: (end - begin) * sector, Pno: dataPartition}
	request := unix.BlkpgIoctlArg{Op: unix.BLKPG_ADD_PARTITION, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&request)))
	if errno != 0 && errno != unix.EBUSY { // busy: it is there
		return "", fmt.Errorf("adding a partition to %s: %w", disk, errno)
	}
	name := disk + strconv.Itoa(dataPartition)
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		name = disk + "p" + strconv.Itoa(dataPartition)
	}
	return name, nil
}

// isExt4 looks for the file system's magic number.
func isExt4(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 2)
	_, err = f.ReadAt(magic, 1024+56)
	return err == nil && binary.LittleEndian.Uint16(magic) == 0xef53
}

// makeFileSystem runs the image's mkfs. The disk is new and reads as zeros, so nothing has to be written but what
// differs from that: 0.1 MB, without the room to grow that would be another 4 MB.
func makeFileSystem(device string) error {
	if err := unix.Mount("/dev", imageRoot+"/dev", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting /dev for mkfs: %w", err)
	}
	defer func() { _ = unix.Unmount(imageRoot+"/dev", 0) }()
	cmd := exec.Command("/usr/sbin/mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode", "-E", "nodiscard,assume_storage_prezeroed=1,lazy_itable_init=1", device)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: imageRoot}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making a file system on %s: %w: %s", device, err, out)
	}
	say("made a file system on " + device)
	return nil
}
