// Command init is the first program of a cell that boots from Kip's own image: all that is in its initramfs, besides
// modules of the kernel. It finds the image's root file system on the disk, makes a writable one of it and of the rest
// of the disk, asks for the network, and becomes the agent.
//
// It does by itself what needs several programs elsewhere, because each of them would cost part of the second that is
// the aim for everything between the kernel and the agent. What cannot be done ends the machine: one that is no cell is
// of no use, and costs money.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// agent is the image's /sbin/init.
const agent = "/sbin/init"

func main() {
	if err := boot(context.Background()); err != nil {
		say("this machine cannot be a cell: " + err.Error())
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		select {} // the kernel would panic at the end of its first process
	}
}

func boot(ctx context.Context) error {
	for _, m := range []struct{ kind, target string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.kind, m.target, m.kind, 0, ""); err != nil {
			return err
		}
	}
	// The kernel had no console to open for its first process.
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the console: %w", err)
	}
	for descriptor := range 3 {
		if err := unix.Dup3(int(console.Fd()), descriptor, 0); err != nil {
			return fmt.Errorf("opening the console: %w", err)
		}
	}
	console.Close()
	say("init started")
	if err := loadModules(networkModules); err != nil {
		return err
	}
	// The network answers while all else is prepared.
	var wg sync.WaitGroup
	var lease lease
	wg.Go(func() { lease = awaitLease(ctx) })
	if err := loadModules(otherModules); err != nil {
		return err // and the machine ends
	}
	if err := assembleRoot(); err != nil {
		return err
	}
	wg.Wait()
	if err := lease.write(newRoot); err != nil {
		return err
	}
	return becomeAgent()
}

// becomeAgent leaves the initramfs, gives its memory back, and executes the agent.
func becomeAgent() error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := mount(dir, filepath.Join(newRoot, dir), "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	for _, path := range []string{"/init", modulesDir} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("leaving the initramfs: %w", err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("leaving the initramfs: %w", err)
	}
	if err := mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("leaving the initramfs: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("leaving the initramfs: %w", err)
	}
	say("starting the agent")
	environment := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if err := syscall.Exec(agent, []string{agent}, environment); err != nil {
		return fmt.Errorf("executing %s: %w", agent, err)
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", source, target, err)
	}
	return nil
}

// say writes to the kernel's log, which has the time since the kernel's start beside each line.
func say(message string) {
	log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kip:", message)
		return
	}
	defer log.Close()
	fmt.Fprintf(log, "<5>kip: %s\n", message)
}
