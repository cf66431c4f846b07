package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// programs are Kip's and third parties', by their directory in the image.
var programs = map[string][]string{
	"opt/kip/bin": {
		"bin/kip-cell", "bin/kip-snapshotter", ".cache/tools/bin/kubelet", ".cache/tools/bin/kube-proxy", ".cache/tools/bin/runc",
		".cache/tools/bin/containerd", ".cache/tools/bin/containerd-shim-runc-v2", ".cache/tools/bin/ctr",
	},
	"opt/kip/cni/bin": {
		".cache/tools/bin/loopback", ".cache/tools/bin/ptp", ".cache/tools/bin/portmap", ".cache/tools/bin/static",
	},
}

// useless are parts of packages that nobody reads in a cell.
var useless = []string{
	"boot", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
	"usr/share/initramfs-tools", "usr/share/bash-completion", "usr/lib/systemd", "usr/lib/udev", "etc/init.d", "etc/systemd",
	"var/cache", "var/lib", "var/log", "var/backups",
}

// mountPoints are directories that must be there: the file system cannot be written to.
var mountPoints = []string{"dev", "proc", "sys", "run", "tmp", "var", "root", "home", "mnt", "etc", "opt"}

// accounts are what a package's script makes elsewhere.
var accounts = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"etc/group":         "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

// makeRoot makes the root file system's tree of the packages'.
func makeRoot(root, files string) error {
	if err := os.Rename(filepath.Join(root, listFile), filepath.Join(files, listFile)); err != nil {
		return err
	}
	for _, path := range useless {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			return err
		}
	}
	for _, path := range mountPoints {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			return err
		}
	}
	for path, content := range accounts {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := bundleCertificates(root); err != nil {
		return err
	}
	for dir, sources := range programs {
		for _, source := range sources {
			if err := copyFile(filepath.Join(root, dir, filepath.Base(source)), source, 0o755); err != nil {
				return err
			}
		}
	}
	init := filepath.Join(root, "usr/sbin/init")
	if err := os.Remove(init); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink("/opt/kip/bin/kip-cell", init)
}

// bundleCertificates makes the file that programs look for of the certificates that Mozilla trusts.
func bundleCertificates(root string) error {
	certificates, err := filepath.Glob(filepath.Join(root, "usr/share/ca-certificates/mozilla/*.crt")) // in order
	if err != nil || len(certificates) == 0 {
		return fmt.Errorf("there are no certificates: %w", err)
	}
	var bundle bytes.Buffer
	for _, path := range certificates {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		bundle.Write(data)
	}
	path := filepath.Join(root, "etc/ssl/certs/ca-certificates.crt")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, bundle.Bytes(), 0o644)
}

func copyFile(to, from string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: run make tools build", err)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
