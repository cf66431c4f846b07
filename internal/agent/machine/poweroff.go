package machine

import (
	"bytes"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// signalPowerOff is SIGRTMIN+4, by which an init is asked to power off.
const signalPowerOff = syscall.Signal(34 + 4)

// PowerOffSignals returns a channel that gets the signals by which a machine is
// told to end: those of a power button (SIGPWR), of a virtual machine manager
// (SIGRTMIN+4), and of a service manager (SIGTERM, SIGINT).
func PowerOffSignals() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, signalPowerOff)
	return c
}

// EndContainers asks the processes of all containers to end and waits until
// they have, at most for the grace. The kubelet must have been stopped before,
// lest it start them again. Only PID 1 may call it.
func EndContainers(grace time.Duration) {
	deadline := time.Now().Add(grace)
	for first := true; ; first = false {
		left := containerProcesses("/proc")
		if len(left) == 0 || time.Now().After(deadline) {
			return
		}
		if first {
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// containerProcesses lists all processes but the agent's, containerd's, its
// shims and the kernel's own.
func containerProcesses(proc string) (pids []int) {
	entries, _ := os.ReadDir(proc)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		// Kernel threads and zombies have no command line.
		if line, err := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline")); err != nil || len(line) == 0 {
			continue
		}
		// "containerd", and "containerd-shim" as the kernel cuts it.
		if comm, err := os.ReadFile(filepath.Join(proc, e.Name(), "comm")); err != nil || bytes.HasPrefix(comm, []byte("containerd")) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

// PowerOff switches the machine off. As PID 1 it kills every other process and
// does not return; otherwise it asks PID 1 to do the same in its own way.
func PowerOff(logger *slog.Logger) {
	if !IsInit() {
		logger.Info("asking init to power the machine off")
		if err := syscall.Kill(1, signalPowerOff); err != nil {
			logger.Error("init cannot be asked to power off", "error", err)
		}
		return
	}
	logger.Info("powering off")
	_ = syscall.Kill(-1, syscall.SIGKILL)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		logger.Error("powering off", "error", err)
	}
	// Without the right to power off, the end of init ends a container cell
	// just as well.
	os.Exit(0)
}
