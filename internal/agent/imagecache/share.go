package imagecache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mountAgain is the pause before a mount that failed is tried again.
	mountAgain = 15 * time.Second
	// lookUpTimeout bounds the search for the server's address.
	lookUpTimeout = 5 * time.Second
)

// nfsOptions have a server that is gone end in errors and not in processes that
// hang: soft, an answer expected in 3 seconds, asked once more. The snapshotter
// has lost its patience by then and turned to the registry. The rest is what
// Amazon recommends for EFS.
//
// It is 4.1, which EFS has and everybody else: with 4.2 Linux may read with
// READ_PLUS, and NFS-Ganesha 4.3 hands out other bytes to that than it has.
const nfsOptions = "vers=4.1,soft,timeo=30,retrans=1,proto=tcp,port=2049,rsize=1048576,noresvport"

// mountFunc is unix.Mount.
type mountFunc func(source, target, kind string, flags uintptr, data string) error

// KeepShare mounts the endpoint, "server:/path" of NFS or a directory of the
// machine, read-only, and goes on trying until it is mounted or ctx ends.
func KeepShare(ctx context.Context, endpoint string, logger *slog.Logger) {
	if err := os.MkdirAll(shareDir, 0o700); err != nil {
		logger.Error("the image cache cannot be mounted", "error", err)
		return
	}
	// An agent before this one may have mounted it.
	_ = unix.Unmount(shareDir, unix.MNT_DETACH)
	for told := false; ; told = true {
		err := mountShare(ctx, endpoint, shareDir, unix.Mount, net.DefaultResolver.LookupHost)
		if err == nil {
			logger.Info("the image cache is mounted", "endpoint", endpoint)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if !told {
			logger.Warn("the image cache cannot be mounted; images are pulled until it can be", "endpoint", endpoint, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(mountAgain):
		}
	}
}

// noatime is among them: the kernel's client refuses what mount(8) makes a flag
// of.
const shareFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME

// mountShare mounts the endpoint once.
func mountShare(ctx context.Context, endpoint, target string, mount mountFunc, lookUp func(context.Context, string) ([]string, error)) error {
	server, _, remote := strings.Cut(endpoint, ":/")
	if !remote {
		if err := mount(endpoint, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding %s: %w", endpoint, err)
		}
		// The flags of a bind are set by mounting it once more.
		if err := mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|shareFlags, ""); err != nil {
			return errors.Join(fmt.Errorf("binding %s: %w", endpoint, err), unix.Unmount(target, unix.MNT_DETACH))
		}
		return nil
	}
	// mount.nfs would look this up; the kernel does not.
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	addresses, err := lookUp(ctx, strings.Trim(server, "[]"))
	if err != nil {
		return fmt.Errorf("looking up the NFS server: %w", err)
	}
	if err := mount(endpoint, target, "nfs4", shareFlags, "addr="+addresses[0]+","+nfsOptions); err != nil {
		return fmt.Errorf("mounting with NFS 4.1: %w", err)
	}
	return nil
}
