package tunnel

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// setUserTimeout makes the kernel give up a connection on which sent bytes stay
// unacknowledged; by default it would go on for a quarter of an hour.
func setUserTimeout(_, _ string, c syscall.RawConn) error {
	var sockErr error
	err := c.Control(func(fd uintptr) {
		sockErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stallTimeout.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("setting TCP_USER_TIMEOUT", sockErr)
}
