package vpcnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where ip(8) looks for named network namespaces.
const namespaceDir = "/run/netns"

// openNamespace returns the named network namespace, and whether it had to be made.
func openNamespace(name string) (_ netns.NsHandle, created bool, _ error) {
	path := filepath.Join(namespaceDir, name)
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if err == nil && st.Type != unix.NSFS_MAGIC {
		// The mount point was made but not mounted on: an Open was interrupted, or the machine restarted.
		if err := os.Remove(path); err != nil {
			return netns.None(), false, fmt.Errorf("removing the leftover of a network namespace: %w", err)
		}
		err = unix.ENOENT
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		ns, err := makeNamespace(name)
		return ns, true, err
	case err != nil:
		return netns.None(), false, fmt.Errorf("looking for network namespace %s: %w", name, err)
	}
	ns, err := netns.GetFromName(name)
	if err != nil {
		return netns.None(), false, fmt.Errorf("opening network namespace %s: %w", name, err)
	}
	return ns, false, nil
}

func makeNamespace(name string) (netns.NsHandle, error) {
	if err := shareNamespaceDir(); err != nil {
		return netns.None(), fmt.Errorf("making network namespace %s: %w", name, err)
	}
	ns := netns.None()
	err := onOwnThread(func() (err error) {
		ns, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return netns.None(), fmt.Errorf("making network namespace %s: %w", name, err)
	}
	return ns, nil
}

// shareNamespaceDir makes a mount of the directory, as ip(8) does with the first namespace that it adds. If that were
// after ours, it would cover our names, which then could be neither opened nor removed.
func shareNamespaceDir() error {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return err
	}
	share := func() error { return unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if errors.Is(err, unix.EINVAL) { // it is no mount yet
		if err := unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting %s over itself: %w", namespaceDir, err)
		}
		err = share()
	}
	if err != nil {
		return fmt.Errorf("sharing the mount of %s: %w", namespaceDir, err)
	}
	return nil
}

// deleteNamespace takes the namespace's name away; it ends with the last socket and link end in it.
func deleteNamespace(name string) error {
	path := filepath.Join(namespaceDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing network namespace %s: %w", name, err)
	}
	return nil
}

// inNamespace runs f on a thread that is in the namespace. Sockets that f opens and processes that it starts belong to
// the namespace; goroutines that it starts do not.
func inNamespace(ns netns.NsHandle, f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("entering the network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that nothing else uses afterwards, so that f may change the thread's namespace.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- f()
	}()
	return <-result
}
