package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// acquire opens file and locks it for this process and for every child that
// inherits it: a compiler that outlives us keeps others out. Closing the file
// releases it. While another build holds the lock, acquire waits and says for whom.
func acquire(ctx context.Context, file string, out io.Writer) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	told := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking the cache: %w", err)
		}
		if !told {
			holder, _ := os.ReadFile(file)
			fmt.Fprintf(out, "Waiting for another build of the tools (process %s).\n", strings.TrimSpace(string(holder)))
			told = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for another build of the tools: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
	// Only for the message above: the lock itself is the kernel's.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}
