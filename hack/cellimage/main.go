// Command cellimage builds Kip's own machine image: Debian's kernel for clouds, an initramfs of one program, and a small
// root file system that is never written to, with everything that a cell runs. Nothing is downloaded when it boots.
//
//	cellimage -o DIR
//	cellimage -stock -o DIR    what stands for a stock image in tests
//
// The disk boots by itself where the firmware is UEFI, as EC2's; ec2local starts the kernel beside it, which is faster.
//
// It runs as root, and needs mmdebstrap, xz, cpio, objcopy, mkfs.vfat, mcopy and sfdisk, and what `make tools build` makes. Packages are downloaded
// once, and again when the list of them changes or their directory is removed. From the same packages and programs it
// makes the same bytes; which packages they are is in the file "packages" of the result.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	out := flag.String("o", "", "directory to put the image in")
	stock := flag.Bool("stock", false, "make what stands for a stock image in tests instead")
	mirror := flag.String("mirror", defaultMirror, "Debian's mirror, with debian and debian-security below it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	make := build
	if *stock {
		make = buildStock
	}
	if err := make(ctx, *out, *mirror); err != nil {
		fmt.Fprintln(os.Stderr, "cellimage:", err)
		stop()
		os.Exit(1)
	}
}

const defaultMirror = "http://deb.debian.org"

// suite is the Debian release: its kernel mounts EROFS images from plain files.
const suite = "trixie"

// packages are what of Debian is in the image, beside what they depend on.
var packages = []string{
	"linux-image-cloud-amd64", "kmod",
	// What makes the kernel a program of the firmware's.
	"systemd-boot-efi",
	// What the kubelet, its volume plugins and kube-proxy execute.
	"util-linux", "mount", "nftables", "e2fsprogs", "nfs-common",
	// For the image cache.
	"erofs-utils",
	// What containerd trusts.
	"ca-certificates",
	// For people who look into a cell.
	"dash", "coreutils", "iproute2", "procps",
}

func build(ctx context.Context, out, mirror string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	system, err := debian(ctx, out, mirror, "extract", packages)
	if err != nil {
		return fmt.Errorf("getting Debian's packages: %w", err)
	}
	stage := filepath.Join(out, "stage")
	if err := os.RemoveAll(stage); err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	root, files := filepath.Join(stage, "root"), filepath.Join(stage, "files")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "cp", "-a", system, root); err != nil {
		return err
	}
	kernel, err := makeKernel(ctx, root, files)
	if err != nil {
		return fmt.Errorf("making the initramfs: %w", err)
	}
	if err := makeRoot(root, files); err != nil {
		return fmt.Errorf("making the root file system: %w", err)
	}
	if err := makeDisk(ctx, root, files); err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	// The disk last: a directory without it is no image.
	for _, name := range []string{listFile, "cmdline", "initrd", "kernel", "disk"} {
		if err := os.Rename(filepath.Join(files, name), filepath.Join(out, name)); err != nil {
			return err
		}
	}
	fmt.Printf("%s: Linux %s\n", out, kernel)
	return nil
}

// listFile names the packages, with their versions.
const listFile = "packages"

// debian returns a directory with the packages' files. In the variant "extract" they are as they are unpacked: no script
// of theirs has run.
func debian(ctx context.Context, out, mirror, variant string, packages []string) (string, error) {
	sources := []string{
		fmt.Sprintf("deb %s/debian %s main", mirror, suite),
		fmt.Sprintf("deb %s/debian-security %s-security main", mirror, suite),
	}
	sum := sha256.Sum256([]byte(strings.Join(slices.Concat(packages, sources, []string{variant}), "\n")))
	dir := filepath.Join(out, "debian-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	partial := dir + ".partial"
	if err := errors.Join(os.MkdirAll(out, 0o755), os.RemoveAll(partial)); err != nil {
		return "", err
	}
	args := append([]string{
		"--quiet", "--variant=" + variant, "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include=" + strings.Join(packages, ","), "--extract-hook=ls \"$1/var/cache/apt/archives\" >\"$1/" + listFile + "\"", suite, partial,
	}, sources...)
	if err := run(ctx, "mmdebstrap", args...); err != nil {
		return "", err
	}
	return dir, os.Rename(partial, dir)
}

// run runs a program and shows what it says only if it fails.
func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, "", name, args...)
	return err
}

func output(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", name, err, out, complaint.String())
	}
	return string(out), nil
}
