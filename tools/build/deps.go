package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A dependency is a Debian package and how to see, on any distribution, that
// what it brings is there.
type dependency struct {
	name    string
	set     string
	purpose string
	// files are patterns; one match of each is enough. A name without a slash is a program.
	files []string
}

var dependencies = []dependency{
	{"gcc", "build", "compiles the C part of runc", []string{"gcc"}},
	{"libc6-dev", "build", "libc for a static runc", []string{"/usr/lib*/libc.a|/usr/lib/*/libc.a"}},
	{"pkg-config", "build", "finds libseccomp", []string{"pkg-config"}},
	{"libseccomp-dev", "build", "seccomp in runc", []string{"/usr/include/seccomp.h", "/usr/lib*/libseccomp.a|/usr/lib/*/libseccomp.a"}},
	{"iproute2", "run", "shows and repairs the local network", []string{"ip"}},
	{"nftables", "run", "kube-proxy in a cell programs Services with it", []string{"nft"}},
	{"iptables", "run", "the portmap plugin in a cell forwards host ports with it", []string{"iptables"}},
	{"conntrack", "run", "kube-proxy and portmap forget old connections with it", []string{"conntrack"}},
	{"awscli", "test", "reads and checks the EC2 endpoint; it holds botocore's model of the EC2 API", []string{
		"/usr/bin/aws", "/usr/lib/python3/dist-packages/awscli/botocore/data/ec2/2016-11-15/service-2.json*"}},
	{"curl", "test", "calls servers in Kubernetes' end-to-end tests, from inside pods", []string{"curl"}},
	{"netcat-openbsd", "test", "sends datagrams in Kubernetes' end-to-end tests, from inside pods", []string{"nc.openbsd"}},
	{"gettext-base", "run", "kustomize/deploy.sh fills its templates with envsubst", []string{"envsubst"}},
	{"shellcheck", "test", "checks the scripts of kustomize", []string{"shellcheck"}},
	{"qemu-system-x86", "vm", "runs virtual machines", []string{"qemu-system-x86_64"}},
	{"qemu-utils", "vm", "makes their disks", []string{"qemu-img"}},
	{"mmdebstrap", "vm", "gets the packages of the cells' machine image", []string{"mmdebstrap"}},
	{"debian-archive-keyring", "vm", "says whose packages they are", []string{"/usr/share/keyrings/debian-archive-keyring.*"}},
	{"xz-utils", "vm", "unpacks the image's kernel modules", []string{"xz"}},
	{"cpio", "vm", "packs the image's initramfs", []string{"cpio"}},
	{"fdisk", "vm", "partitions the image's disk", []string{"sfdisk"}},
	{"binutils", "vm", "makes one program of kernel and initramfs", []string{"objcopy"}},
	{"dosfstools", "vm", "makes the file system that firmware reads", []string{"mkfs.vfat"}},
	{"mtools", "vm", "writes to it", []string{"mcopy"}},
	{"ovmf", "vm", "is the firmware of virtual machines that start by themselves", []string{"/usr/share/ovmf/OVMF.fd"}},
	{"nfs-ganesha", "vm", "serves the image cache to virtual machines", []string{"ganesha.nfsd"}},
	{"nfs-ganesha-vfs", "vm", "lets it serve a directory", []string{"/usr/lib*/ganesha/libfsalvfs.so|/usr/lib/*/ganesha/libfsalvfs.so"}},
	{"python3", "test", "runs the checker of the EC2 endpoint's answers", []string{"/usr/bin/python3"}},
}

// present tells whether everything that d brings is on this machine.
func (d dependency) present() bool {
	for _, alternatives := range d.files {
		if !slices.ContainsFunc(strings.Split(alternatives, "|"), exists) {
			return false
		}
	}
	return true
}

// exists tells whether a file matches the pattern. Daemons' programs count
// even where PATH, as a user's, lacks the sbin folders.
func exists(pattern string) bool {
	if !strings.Contains(pattern, "/") {
		if _, err := exec.LookPath(pattern); err == nil {
			return true
		}
		return exists("/usr/sbin/"+pattern) || exists("/sbin/"+pattern)
	}
	matches, err := filepath.Glob(pattern)
	return err == nil && len(matches) > 0
}

// missingDeps returns what the sets want and this machine lacks.
func missingDeps(all []dependency, sets []string) ([]dependency, error) {
	for _, set := range sets {
		if !slices.ContainsFunc(all, func(d dependency) bool { return d.set == set }) {
			return nil, fmt.Errorf("no set of Debian packages is called %q", set)
		}
	}
	var missing []dependency
	for _, d := range all {
		if slices.Contains(sets, d.set) && !d.present() {
			missing = append(missing, d)
		}
	}
	return missing, nil
}

// installDeps installs what the sets want and this machine lacks, silently if
// that is nothing. Where it cannot install, its error says what to type.
func installDeps(ctx context.Context, sets []string, out io.Writer) error {
	missing, err := missingDeps(dependencies, sets)
	if err != nil || len(missing) == 0 {
		return err
	}
	var names, reasons []string
	for _, d := range missing {
		names = append(names, d.name)
		reasons = append(reasons, fmt.Sprintf("  %s: %s", d.name, d.purpose))
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("what these Debian packages hold is missing; install your distribution's equivalents:\n%s", strings.Join(reasons, "\n"))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing Debian packages:\n%s\nInstall them:\n  sudo apt-get install %s",
			strings.Join(reasons, "\n"), strings.Join(names, " "))
	}
	fmt.Fprintf(out, "Installing Debian packages:\n%s\n", strings.Join(reasons, "\n"))
	install := append([]string{"install", "-y", "--no-install-recommends"}, names...)
	if err := runApt(ctx, apt, install...); err != nil && ctx.Err() == nil {
		// A fresh machine has no package lists, or old ones.
		if err := runApt(ctx, apt, "update"); err != nil {
			return err
		}
		if err := runApt(ctx, apt, install...); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("installing Debian packages: %w", ctx.Err())
	}
	for _, d := range missing {
		if !d.present() {
			return errors.New("package " + d.name + " is installed, but does not hold " + strings.Join(d.files, " and "))
		}
	}
	return nil
}

// runApt runs apt-get. It waits for another one's lock, asks nothing, and
// shows what it said only if it failed.
func runApt(ctx context.Context, apt string, args ...string) error {
	messages := &tail{keep: tailLines, line: func(string) bool { return false }}
	cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = messages, messages
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, messages)
	}
	return nil
}
