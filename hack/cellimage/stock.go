package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// stockPackages make what stands for Amazon's image for EKS nodes: a distribution with systemd and cloud-init, and what
// that image has for a kubelet.
var stockPackages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "systemd-resolved", "udev", "dbus", "cloud-init",
	"curl", "ca-certificates", "iproute2", "iptables", "nftables", "conntrack", "nfs-common", "procps", "kmod", "netbase",
}

// stockPrograms are where Amazon's image has them. It has neither kube-proxy nor CNI plugins.
var stockPrograms = map[string]string{
	"usr/bin/kubelet": "kubelet", "usr/bin/containerd": "containerd", "usr/bin/containerd-shim-runc-v2": "containerd-shim-runc-v2",
	"usr/bin/ctr": "ctr", "usr/sbin/runc": "runc",
}

// stockFiles say what Amazon's image does at boot: the network by DHCP, cloud-init with EC2's metadata only, and nodeadm,
// whose first half finds no NodeConfig and fails, and whose second must not run.
var stockFiles = map[string]string{
	"etc/hostname":   "stock\n",
	"etc/fstab":      "",
	"etc/machine-id": "uninitialized\n",
	"etc/systemd/network/10-ethernet.network": "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n",
	"etc/cloud/cloud.cfg.d/90-ec2.cfg": "datasource_list: [Ec2]\ndatasource: {Ec2: {strict_id: false, max_wait: 60, timeout: 10}}\n" +
		"network: {config: disabled}\n",
	"etc/systemd/system/nodeadm-config.service": "[Unit]\nBefore=cloud-init.service\nAfter=systemd-networkd-wait-online.service\n\n" +
		"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo nodeadm finds no NodeConfig >/dev/console; exit 1'\n\n[Install]\nWantedBy=multi-user.target\n",
	"etc/systemd/system/nodeadm-run.service": "[Unit]\nAfter=nodeadm-config.service cloud-final.service\n\n" +
		"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo nodeadm makes this another node >/dev/console; poweroff'\n\n[Install]\nWantedBy=multi-user.target\n",
}

// stockUnits are enabled, by the target that wants them.
var stockUnits = map[string]string{
	"nodeadm-config.service": "/etc/systemd/system", "nodeadm-run.service": "/etc/systemd/system",
	"systemd-networkd.service": "/usr/lib/systemd/system", "systemd-networkd-wait-online.service": "/usr/lib/systemd/system",
}

const (
	stockCmdline = "root=/dev/vda rw console=ttyS0 net.ifnames=0 loglevel=5 panic=5 random.trust_cpu=on cryptomgr.notests no_timer_check"
	stockMiB     = 4096
)

// buildStock makes the image that proves the way of stock images. It is for tests; it needs no two builds to be the same.
func buildStock(ctx context.Context, out, mirror string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	system, err := debian(ctx, out, mirror, "minbase", stockPackages)
	if err != nil {
		return fmt.Errorf("getting Debian's packages: %w", err)
	}
	stage := filepath.Join(out, "stage")
	if err := os.RemoveAll(stage); err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	root := filepath.Join(stage, "root")
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "cp", "-a", system, root); err != nil {
		return err
	}
	if err := stockRoot(root); err != nil {
		return fmt.Errorf("making the root file system: %w", err)
	}
	if err := stockBoot(root, stage); err != nil {
		return err
	}
	disk := filepath.Join(stage, "disk")
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-d", root, disk, fmt.Sprintf("%dM", stockMiB)); err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	for _, name := range []string{"cmdline", "initrd", "kernel", "disk"} {
		if err := os.Rename(filepath.Join(stage, name), filepath.Join(out, name)); err != nil {
			return err
		}
	}
	return nil
}

func stockRoot(root string) error {
	for path, program := range stockPrograms {
		if err := copyFile(filepath.Join(root, path), filepath.Join(".cache/tools/bin", program), 0o755); err != nil {
			return err
		}
	}
	for path, content := range stockFiles {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for unit, dir := range stockUnits {
		link := filepath.Join(root, "etc/systemd/system/multi-user.target.wants", unit)
		if err := os.Symlink(filepath.Join(dir, unit), link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// stockBoot takes kernel and initramfs out, so that no firmware and boot loader have to be emulated.
func stockBoot(root, stage string) error {
	for name, pattern := range map[string]string{"kernel": "boot/vmlinuz-*", "initrd": "boot/initrd.img-*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("want one %s, found %d: %w", pattern, len(found), err)
		}
		if err := os.Rename(found[0], filepath.Join(stage, name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(stage, "cmdline"), []byte(stockCmdline+"\n"), 0o644)
}
