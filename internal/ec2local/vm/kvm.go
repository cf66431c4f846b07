package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// kvmPatience is how long a kernel has to give up when KVM runs it: it takes about one second on a processor that can
// do it. What passes for KVM elsewhere, an emulation inside a virtual machine, takes minutes or never ends.
const kvmPatience = 8 * time.Second

// tryKVM boots a kernel without a root file system. It is expected to panic, and the machine to end with it.
func tryKVM(ctx context.Context, kernel string) (bool, error) {
	// Without a kernel there is nothing to try it with: what is on the disk may be anything.
	if !exists("/dev/kvm") || !exists(kernel) {
		return false, nil
	}
	path, err := exec.LookPath(emulator)
	if err != nil {
		return false, fmt.Errorf("virtual machines need %s (package qemu-system-x86): %w", emulator, err)
	}
	attempt, cancel := context.WithTimeout(ctx, kvmPatience)
	defer cancel()
	out, err := exec.CommandContext(attempt, path, "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-append", "console=ttyS0 panic=-1").Output()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil && bytes.Contains(out, []byte("Kernel panic")), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
