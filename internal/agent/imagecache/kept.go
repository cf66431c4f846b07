package imagecache

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keptName is what the service manager knows the descriptor by.
const keptName = "kip-layers"

// firstKept is where systemd puts descriptors.
const firstKept = 3

// kept returns the descriptor that the service manager kept while the agent was
// restarted; nil if it has none, or there is no such manager.
func kept() *os.File {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	for i, name := range strings.Split(os.Getenv("LISTEN_FDNAMES"), ":") {
		if name == keptName {
			unix.CloseOnExec(firstKept + i)
			return os.NewFile(uintptr(firstKept+i), "/dev/fuse")
		}
	}
	return nil
}

// keep gives the service manager a copy of the descriptor, if there is one: what
// reads layers waits then while the agent is restarted.
func keep(layers *os.File) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	manager, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("giving the service manager a descriptor: %w", err)
	}
	defer unix.Close(manager)
	const message = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + keptName
	if err := unix.Sendmsg(manager, []byte(message), unix.UnixRights(int(layers.Fd())), &unix.SockaddrUnix{Name: socket}, 0); err != nil {
		return fmt.Errorf("giving the service manager a descriptor: %w", err)
	}
	return nil
}
