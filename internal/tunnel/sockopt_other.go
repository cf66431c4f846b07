//go:build !linux

package tunnel

import "syscall"

// setUserTimeout does nothing where the kernel has no such option: there a dead
// peer is noticed later.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }
