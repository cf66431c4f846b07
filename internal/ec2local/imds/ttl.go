package imds

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setTTL sets how many hops the packets of a request's connection survive from now on. Without a TCP connection in the
// context there is nothing to limit.
func setTTL(ctx context.Context, hops int) error {
	conn, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return nil
	}
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("setting the TTL: %w", err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, hops)
	}); err != nil {
		return fmt.Errorf("setting the TTL: %w", err)
	}
	if failed != nil {
		return fmt.Errorf("setting the TTL: %w", failed)
	}
	return nil
}
