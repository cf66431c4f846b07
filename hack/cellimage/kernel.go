package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// earlyModules are needed before the root file system is there, or are what nobody asks for by name afterwards. Those for
// the hardware of EC2 (NVMe is part of the kernel) and of QEMU stand side by side. The program of the initramfs loads one
// list after the other, and asks for an address after the first.
var earlyModules = []struct {
	list    string
	modules []string
}{
	{"network", []string{"ena", "virtio_pci", "virtio_net"}},
	{"others", []string{
		"virtio_blk", "virtio_rng", "erofs", "ext4", "overlay",
		"button", "evdev", // how a cloud asks a machine to end
	}},
}

// cmdline is the kernel's command line.
var cmdline = strings.Join([]string{
	"console=ttyS0",
	"loglevel=6", // every line takes time on a serial port
	"panic=5",    // begins anew; the pod does too
	"random.trust_cpu=on", "cryptomgr.notests", "no_timer_check",
}, " ")

// epoch is the time of every file, in seconds: some time.
const epoch = "1767225600"

// makeKernel moves the kernel out of the root file system, makes its initramfs of the modules that are there, and one
// program of both. It returns the kernel's version.
func makeKernel(ctx context.Context, root, files string) (version string, err error) {
	found, err := os.ReadDir(filepath.Join(root, "usr/lib/modules"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("want the modules of one kernel, found %d: %w", len(found), err)
	}
	version = found[0].Name()
	if err := os.Rename(filepath.Join(root, "boot/vmlinuz-"+version), filepath.Join(files, "kernel")); err != nil {
		return "", err
	}
	modules := filepath.Join(root, "usr/lib/modules", version)
	if err := unpackModules(ctx, modules); err != nil {
		return "", err
	}
	if err := run(ctx, "chroot", root, "/usr/sbin/depmod", version); err != nil {
		return "", err
	}
	tree := filepath.Join(filepath.Dir(files), "initramfs")
	if err := copyModules(ctx, root, version, filepath.Join(tree, "modules")); err != nil {
		return "", err
	}
	if err := copyFile(filepath.Join(tree, "init"), "bin/cell-init", 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(files, "cmdline"), []byte(cmdline+"\n"), 0o644); err != nil {
		return "", err
	}
	if err := archive(ctx, tree, filepath.Join(files, "initrd")); err != nil {
		return "", err
	}
	return version, makeUnifiedKernel(ctx, root, files)
}

// unpackModules: the root file system is compressed as a whole, and to unpack them at boot would take time.
func unpackModules(ctx context.Context, dir string) error {
	var packed []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".ko.xz") {
			packed = append(packed, path)
		}
		return err
	})
	if err != nil || len(packed) == 0 {
		return err
	}
	return run(ctx, "xz", append([]string{"--decompress", "--threads=0"}, packed...)...)
}

// copyModules copies the early modules to a directory, with lists of them, in which each is after those that it needs.
func copyModules(ctx context.Context, root, version, to string) error {
	var done []string
	for _, early := range earlyModules {
		var names strings.Builder
		for _, module := range early.modules {
			paths, err := withDependencies(ctx, root, version, module)
			if err != nil {
				return err
			}
			for _, path := range paths {
				if slices.Contains(done, path) {
					continue
				}
				done = append(done, path)
				name := filepath.Base(path)
				if err := copyFile(filepath.Join(to, name), filepath.Join(root, path), 0o644); err != nil {
					return err
				}
				fmt.Fprintln(&names, name)
			}
		}
		if err := os.WriteFile(filepath.Join(to, early.list), []byte(names.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withDependencies returns paths below root of a module and those that it needs, which come first.
func withDependencies(ctx context.Context, root, version, module string) ([]string, error) {
	out, err := output(ctx, "", "chroot", root, "/usr/sbin/modprobe", "--set-version", version, "--show-depends", module)
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(out) { // insmod PATH, or builtin NAME
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod "); ok {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// archive packs a tree as the kernel reads it, unpacked: it is small, and to unpack it would cost more than to read it.
func archive(ctx context.Context, tree, to string) error {
	var names []string
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(tree, path)
		if relErr != nil {
			return relErr
		}
		names = append(names, name) // in order
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := run(ctx, "touch", "--no-dereference", "--date=@"+epoch, filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	_, err = output(ctx, strings.Join(names, "\n")+"\n", "cpio", "--quiet", "--create", "--format=newc", "--reproducible", "--owner=0:0",
		"--directory="+tree, "--file="+to)
	return err
}
