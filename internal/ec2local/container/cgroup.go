package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// hierarchy is a mounted cgroup hierarchy of the host. In each, a machine has a cgroup of its own, also in those that
// limit nothing (systemd's named one, the unified one beside version 1): a machine without would see the host's.
type hierarchy struct {
	// mountpoint is where the host has it.
	mountpoint string
	// controllers of a version 1 hierarchy, as in /proc/self/cgroup. "name=systemd" is one without controllers.
	controllers string
	// unified says that it is of version 2.
	unified bool
}

// inside is the name of a version 1 hierarchy's directory in a machine's /sys/fs/cgroup, and what to mount there. That
// includes the ones without controllers: containerd gives up watching for out-of-memory kills if one that it finds in
// /proc/self/cgroup is not mounted.
func (h hierarchy) inside() (dir, options string) {
	if name, ok := strings.CutPrefix(h.controllers, "name="); ok {
		return name, "none,name=" + name
	}
	return h.controllers, h.controllers
}

func (h hierarchy) has(controller string) bool {
	for c := range strings.SplitSeq(h.controllers, ",") {
		if c == controller {
			return true
		}
	}
	return false
}

// cgroups makes and removes the machines' cgroups, all below one per hierarchy: kip-<cluster>/<machine>.
type cgroups struct {
	cluster     string
	hierarchies []hierarchy

	mu sync.Mutex // the common parents come with the first machine and go with the last
}

// pure says whether the host has cgroup version 2 and nothing else.
func (c *cgroups) pure() bool { return len(c.hierarchies) == 1 && c.hierarchies[0].unified }

// findCgroups learns the host's hierarchies from the text of /proc/self/cgroup and /proc/self/mountinfo.
func findCgroups(cluster, memberships, mountinfo string) (*cgroups, error) {
	mounted := map[string]string{} // controllers, "" for the unified hierarchy, to mount point
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		fields, fsFields := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(fsFields) < 3 || fields[3] != "/" {
			continue
		}
		options := strings.Split(fsFields[2], ",")
		switch fsFields[0] {
		case "cgroup2":
			mounted[""] = fields[4]
		case "cgroup":
			for _, o := range options {
				mounted[o] = fields[4]
			}
		}
	}
	c := &cgroups{cluster: cluster}
	for line := range strings.Lines(memberships) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		first, _, _ := strings.Cut(parts[1], ",")
		if mountpoint, ok := mounted[first]; ok {
			c.hierarchies = append(c.hierarchies, hierarchy{mountpoint: mountpoint, controllers: parts[1], unified: parts[0] == "0"})
		}
	}
	if len(c.hierarchies) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return c, nil
}

func hostCgroups(cluster string) (*cgroups, error) {
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return findCgroups(cluster, string(memberships), string(mountinfo))
}

func (c *cgroups) parent(h hierarchy) string { return filepath.Join(h.mountpoint, "kip-"+c.cluster) }

func (c *cgroups) path(h hierarchy, id string) string { return filepath.Join(c.parent(h), id) }

// create makes the machine's cgroups with the limits of its type.
func (c *cgroups) create(m machine.Spec) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hierarchies {
		var err error
		if h.unified {
			err = c.createUnified(h, m)
		} else {
			err = c.createV1(h, m)
		}
		if err != nil {
			return fmt.Errorf("making the %s cgroup: %w", h.controllers, err)
		}
	}
	return nil
}

// add moves a process into the machine's cgroups.
func (c *cgroups) add(id string, pid int) error {
	for _, h := range c.hierarchies {
		if err := write(filepath.Join(c.path(h, id), "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("entering the %s cgroup: %w", h.controllers, err)
		}
	}
	return nil
}

// remove kills what is left in the machine's cgroups, which should be nothing, and removes them with all that the
// machine made below them.
func (c *cgroups) remove(ctx context.Context, id string) error {
	for _, h := range c.hierarchies {
		if err := removeTree(ctx, c.path(h, id)); err != nil {
			return fmt.Errorf("removing the %s cgroup: %w", h.controllers, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hierarchies {
		err := unix.Rmdir(c.parent(h))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("removing the %s cgroup of all machines: %w", h.controllers, err)
		}
	}
	return nil
}

// removeTree removes a cgroup and its descendants. A cgroup is busy for a moment after its last process has ended.
func removeTree(ctx context.Context, path string) error {
	for delay := time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		err := rmdirAll(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if err := killTree(path); err != nil {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// rmdirAll removes directories only: a cgroup's files go with it.
func rmdirAll(path string) error {
	if err := unix.Rmdir(path); err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := rmdirAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// killTree kills the processes of a cgroup and its descendants, at once where the kernel can do that.
func killTree(path string) error {
	if write(filepath.Join(path, "cgroup.kill"), "1") == nil {
		return nil
	}
	return filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.Name() != "cgroup.procs" {
			return err
		}
		pids, err := os.ReadFile(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for field := range strings.FieldsSeq(string(pids)) {
			// 0 is a process of another PID namespace, which a signal would mistake for our own process group.
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended meanwhile
			}
		}
		return nil
	})
}

// write writes to a file that must exist: the kernel's files are not created.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
