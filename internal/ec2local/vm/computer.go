package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// The files of an image.
const (
	imageDisk    = "disk"
	imageKernel  = "kernel"
	imageInitrd  = "initrd"
	imageCmdline = "cmdline"
)

const (
	emulator = "qemu-system-x86_64"
	// firmware is UEFI that keeps its settings in memory, of package ovmf.
	firmware = "/usr/share/ovmf/OVMF.fd"
	// hostReserveMiB stays for the host: no machine gets it.
	hostReserveMiB = 1024
	// tapFD is where QEMU finds its end of the wire: the first descriptor after the standard ones.
	tapFD = 3
)

// IsImage says whether a directory is an image of a virtual machine.
func IsImage(dir string) bool { return exists(filepath.Join(dir, imageDisk)) }

// computer returns the arguments that make QEMU the machine's computer.
func (h *Hypervisor) computer(ctx context.Context, m machine.Spec) ([]string, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("virtual machines are for amd64 only, and this host is %s", runtime.GOARCH)
	}
	boot, err := bootArguments(m.Image)
	if err != nil {
		return nil, err
	}
	accelerated, err := h.accelerated(ctx, filepath.Join(m.Image, imageKernel))
	if err != nil {
		return nil, err
	}
	processors, memory, err := size(m, accelerated)
	if err != nil {
		return nil, err
	}
	if memory < m.MemoryMiB || float64(processors) < m.VCPUs {
		h.keeper.Log().Warn("a machine is smaller than its instance type", "instance", m.ID,
			"vcpus", processors, "memoryMiB", memory, "wantVCPUs", m.VCPUs, "wantMemoryMiB", m.MemoryMiB)
	}
	accelerator, model := "tcg", "max"
	if accelerated {
		accelerator, model = "kvm", "host"
	}
	arguments := []string{
		emulator, "-name", m.ID, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35,vmport=off,accel=" + accelerator, "-cpu", model,
		"-smp", strconv.Itoa(processors), "-m", strconv.FormatInt(memory, 10),
		"-rtc", "base=utc", "-device", "virtio-rng-pci",
		// Nobody needs what is on the disk after the host has lost its power: the host need not write it in time.
		"-drive", "if=none,id=root,format=qcow2,discard=unmap,cache=unsafe,file=" + quote(h.disk(m.ID)),
		"-device", "virtio-blk-pci,drive=root,bootindex=1",
		"-netdev", fmt.Sprintf("tap,id=vpc,fd=%d", tapFD), "-device", "virtio-net-pci,romfile=,netdev=vpc,mac=" + m.NIC.MAC,
		// Appended to, so that the console can be cut while it is written.
		"-chardev", "file,id=console,append=on,path=" + quote(h.keeper.ConsolePath(m.ID)), "-serial", "chardev:console",
		"-qmp", "unix:" + quote(h.socket(m.ID)) + ",server=on,wait=off",
		// cloud-init asks the firmware what cloud this is.
		"-smbios", "type=1,manufacturer=Amazon EC2,product=ec2local,uuid=" + systemUUID(m.ID),
	}
	return append(arguments, boot...), nil
}

// quote writes a path into a list of options, which commas part.
func quote(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// bootArguments say what is booted: the image's kernel, or what firmware finds on the disk.
func bootArguments(image string) ([]string, error) {
	kernel := filepath.Join(image, imageKernel)
	if !exists(kernel) {
		if !exists(firmware) {
			return nil, fmt.Errorf("virtual machines whose images have no kernel beside the disk need %s (package ovmf)", firmware)
		}
		return []string{"-bios", firmware}, nil
	}
	cmdline, err := os.ReadFile(filepath.Join(image, imageCmdline))
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's command line: %w", err)
	}
	return []string{"-kernel", kernel, "-initrd", filepath.Join(image, imageInitrd), "-append", strings.TrimSpace(string(cmdline))}, nil
}

// size is how many processors and how much memory the machine really gets.
func size(m machine.Spec, accelerated bool) (processors int, memoryMiB int64, err error) {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return 0, 0, fmt.Errorf("asking for the host's memory: %w", err)
	}
	most := runtime.NumCPU()
	if !accelerated {
		most = 1 // they would have to wait for each other more than they work
	}
	memory := int64(host.Totalram) * int64(host.Unit) >> 20
	return min(max(1, int(m.VCPUs)), most), min(m.MemoryMiB, max(memory-hostReserveMiB, memory/2)), nil
}

// systemUUID begins with "ec2", by which programs without a way to the metadata service tell that they are there.
func systemUUID(id string) string {
	digits := strings.TrimPrefix(id, "i-")
	digits = (digits + strings.Repeat("0", 29))[:29]
	all := "ec2" + digits
	return all[:8] + "-" + all[8:12] + "-" + all[12:16] + "-" + all[16:20] + "-" + all[20:]
}

// accelerated says whether KVM runs a kernel, by trying it.
func (h *Hypervisor) accelerated(ctx context.Context, kernel string) (bool, error) {
	h.trying.Lock()
	defer h.trying.Unlock()
	if works, ok := h.kvm[kernel]; ok {
		return works, nil
	}
	begin := time.Now()
	works, err := tryKVM(ctx, kernel)
	if err != nil {
		return false, err
	}
	h.kvm[kernel] = works
	h.keeper.Log().Info("tried whether KVM works", "works", works, "took", time.Since(begin))
	return works, nil
}
