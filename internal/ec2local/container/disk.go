package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// What the hypervisor has in a machine's directory, beside the keeper's files.
const (
	rootDir   = "root"      // its disk
	rootDraft = "root.part" // its disk before it is complete
	kernelDir = "kernel"    // what it sees in place of some files of /proc and /sys
)

// directories that every machine has, parents first.
var directories = []struct {
	name string
	mode fs.FileMode
}{
	{"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"mnt", 0o755}, {"opt", 0o755}, {"proc", 0o555}, {"root", 0o700},
	{"run", 0o755}, {"sys", 0o555}, {"tmp", 0o777 | fs.ModeSticky}, {"var", 0o755}, {"var/cache", 0o755},
	{"var/lib", 0o755}, {"var/log", 0o755}, {"var/tmp", 0o777 | fs.ModeSticky},
}

// mergedDirs are links into /usr on a system of today.
var mergedDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// makeDisk lays out the machine's root file system, unless it has one: a machine that was powered off keeps its disk.
func (h *Hypervisor) makeDisk(m machine.Spec) error {
	root := filepath.Join(h.keeper.Dir(m.ID), rootDir)
	if _, err := os.Lstat(root); err == nil {
		return nil
	}
	draft := filepath.Join(h.keeper.Dir(m.ID), rootDraft)
	if err := os.RemoveAll(draft); err != nil {
		return fmt.Errorf("removing an unfinished disk: %w", err)
	}
	image := filepath.Join(m.Image, "rootfs")
	if err := copyImage(draft, image); err != nil {
		return fmt.Errorf("copying image %s: %w", m.Image, err)
	}
	for _, d := range directories {
		if err := makeDir(filepath.Join(draft, d.name), d.mode); err != nil {
			return err
		}
	}
	if err := makeLink(filepath.Join(draft, "var/run"), "/run"); err != nil {
		return err
	}
	if !hasOwnUsr(image) {
		if err := borrowUsr(draft, image); err != nil {
			return fmt.Errorf("preparing for the host's /usr: %w", err)
		}
	}
	for name, content := range h.defaultFiles(m) {
		path := filepath.Join(draft, "etc", name)
		if _, err := os.Lstat(path); err == nil {
			continue // the image's own
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return os.Rename(draft, root)
}

// defaultFiles are files of /etc that an image need not bring, by name.
func (h *Hypervisor) defaultFiles(m machine.Spec) map[string]string {
	files := map[string]string{
		"hostname":      m.Hostname + "\n",
		"hosts":         fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", m.NIC.PrimaryIP.Addr(), m.Hostname),
		"machine-id":    machineID(m.ID) + "\n",
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"group":         "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"nsswitch.conf": "hosts: files dns\n",
		"resolv.conf":   "",
	}
	if h.config.Nameserver.IsValid() {
		files["resolv.conf"] = "nameserver " + h.config.Nameserver.String() + "\n"
	}
	return files
}

// machineID derives what /etc/machine-id wants, 32 hexadecimal digits, from an instance ID.
func machineID(id string) string {
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdef", r) {
			return r
		}
		return -1
	}, id)
	return strings.Repeat("0", max(0, 32-len(digits))) + digits[max(0, len(digits)-32):]
}

func hasOwnUsr(image string) bool {
	_, err := os.Stat(filepath.Join(image, "usr"))
	return err == nil
}

// borrowUsr prepares a root for the host's /usr: mount points, and /bin, /sbin, /lib… as they are on the host. Where
// the image has such a directory itself, typically for /sbin/init, both are laid over each other (see mergedWith).
func borrowUsr(root, image string) error {
	for _, d := range []string{"usr", "etc/alternatives"} {
		if err := makeDir(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, name := range mergedDirs {
		path := filepath.Join(root, name)
		if mergedWith(image, name) {
			if err := makeDir(path, 0o755); err != nil {
				return err
			}
			continue
		}
		target, err := os.Readlink("/" + name)
		if err != nil {
			continue // the host has none, or one that is no part of /usr
		}
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	return nil
}

// mergedWith says whether both image and host have this directory, and the host's /usr is used.
func mergedWith(image, name string) bool {
	return !hasOwnUsr(image) && slices.Contains(mergedDirs, name) && isDir("/"+name) && isDir(filepath.Join(image, name))
}

// copyImage copies all of an image but what is mounted from it.
func copyImage(to, from string) error {
	if _, err := os.Lstat(filepath.Join(from, "sbin/init")); err != nil {
		return fmt.Errorf("it has no /sbin/init: %w", err)
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case name == "opt" || mergedWith(from, name):
			return fs.SkipDir
		case e.IsDir():
			info, err := e.Info()
			if err != nil {
				return err
			}
			return makeDir(target, info.Mode())
		case e.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case e.Type().IsRegular():
			return copyFile(target, path)
		}
		return fmt.Errorf("%s is neither file, directory nor symbolic link", name)
	})
}

func copyFile(to, from string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return target.Chmod(info.Mode())
}

// makeDir makes a directory with exactly this mode, unless there is one.
func makeDir(path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(path, mode)
}

// makeLink makes a symbolic link, unless something has its name.
func makeLink(path, target string) error {
	if err := os.Symlink(target, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
