package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Names that must be the same each time.
const (
	fileSystemUUID = "6b69702d-6365-6c6c-8000-726f6f740000"
	tableUUID      = "6b69702d-6365-6c6c-8000-6469736b0000"
	espPartUUID    = "6b69702d-6365-6c6c-8000-626f6f740000"
	rootPartUUID   = "6b69702d-6365-6c6c-8000-706172740000"
	rootLabel      = "kip-root" // the initramfs looks for it
)

const mebibyte = 1 << 20

// A partition of the disk, with what is in it.
type partition struct{ name, kind, uuid, content string }

// makeDisk makes a disk with what the firmware reads and the compressed root file system, and nothing behind them: a
// machine takes what is left of its volume for what it writes.
func makeDisk(ctx context.Context, root, files string) error {
	esp, err := makeESP(ctx, files)
	if err != nil {
		return fmt.Errorf("making what the firmware reads: %w", err)
	}
	// The image's own mkfs, which is as new as its kernel, makes it inside of itself.
	const inside = "kip-image"
	if err := os.Mkdir(filepath.Join(root, inside), 0o700); err != nil {
		return err
	}
	if err := run(ctx, "chroot", root, "/usr/bin/mkfs.erofs", "--quiet", "-zlz4", "-C65536", "-T"+epoch, "--all-time", "-U"+fileSystemUUID, "--all-root",
		"--exclude-path="+inside, inside+"/root.erofs", "/"); err != nil {
		return err
	}
	return partitionDisk(ctx, filepath.Join(files, "disk"), []partition{
		{"kip-boot", "uefi", espPartUUID, esp},
		{rootLabel, "linux", rootPartUUID, filepath.Join(root, inside, "root.erofs")},
	})
}

// partitionDisk makes a disk of partitions, one behind the other.
func partitionDisk(ctx context.Context, disk string, partitions []partition) error {
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	table := strings.Builder{}
	fmt.Fprintf(&table, "label: gpt\nlabel-id: %s\n", tableUUID)
	end := int64(1) // MiB: the table
	for _, p := range partitions {
		in, err := os.Open(p.content)
		if err != nil {
			return err
		}
		defer in.Close()
		if _, err := f.Seek(end*mebibyte, io.SeekStart); err != nil {
			return err
		}
		size, err := io.Copy(f, in)
		if err != nil {
			return err
		}
		size = (size + mebibyte - 1) / mebibyte
		fmt.Fprintf(&table, "start=%dMiB, size=%dMiB, type=%s, name=%s, uuid=%s\n", end, size, p.kind, p.name, p.uuid)
		end += size
	}
	if err := f.Truncate((end + 1) * mebibyte); err != nil { // the table's copy
		return err
	}
	_, err = output(ctx, table.String(), "sfdisk", "--quiet", disk)
	return err
}
