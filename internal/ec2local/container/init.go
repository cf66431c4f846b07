package container

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName, as the program's name, tells it to become a machine's init.
const initName = "kip-machine-init"

// The descriptors that the process has besides the standard ones.
const (
	orderFD  = 3 // the plan comes here; it is complete at the end of the file
	resultFD = 4 // an error goes here; closed by a successful exec
)

// MaybeRunInit turns this process into a machine's init if it was started as such, and does not return then. Otherwise
// it does nothing. Call it first in main, and in TestMain of tests that run machines: a Hypervisor starts machines by
// starting its own program again.
func MaybeRunInit() {
	if len(os.Args) == 0 || os.Args[0] != initName {
		return
	}
	// The cgroup namespace belongs to a thread. The one that enters it mounts the cgroups and calls exec.
	runtime.LockOSThread()
	result := os.NewFile(resultFD, "result")
	unix.CloseOnExec(resultFD)
	err := becomeInit(os.NewFile(orderFD, "order"))
	fmt.Fprintln(result, err)
	os.Exit(1)
}

// becomeInit returns only with an error.
func becomeInit(orders *os.File) error {
	data, err := io.ReadAll(orders)
	if err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	orders.Close()
	var p plan
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("reading the plan (was its sender killed?): %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("entering a new cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	unix.Umask(0)
	if err := mountAll(p); err != nil {
		return err
	}
	if err := pivot(p.Root); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := syscall.Exec("/sbin/init", []string{"/sbin/init"}, p.Environment); err != nil {
		return fmt.Errorf("executing /sbin/init: %w", err)
	}
	return nil
}
