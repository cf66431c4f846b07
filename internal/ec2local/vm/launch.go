package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// What the hypervisor has in a machine's directory, beside the keeper's files.
const (
	diskFile   = "disk.qcow2"
	socketFile = "qmp"
)

func (h *Hypervisor) disk(id string) string   { return filepath.Join(h.keeper.Dir(id), diskFile) }
func (h *Hypervisor) socket(id string) string { return filepath.Join(h.keeper.Dir(id), socketFile) }

// makeDisk makes the machine's disk, unless it has one: a machine that was powered off keeps its disk.
func (h *Hypervisor) makeDisk(ctx context.Context, m machine.Spec) error {
	if exists(h.disk(m.ID)) {
		return nil
	}
	image := filepath.Join(m.Image, imageDisk)
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	draft := h.disk(m.ID) + ".part"
	out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image,
		draft, strconv.FormatInt(max(m.RootVolumeGiB<<30, info.Size()), 10)).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("virtual machines need qemu-img (package qemu-utils): %w", err)
	}
	if err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	return os.Rename(draft, h.disk(m.ID))
}

// launch starts QEMU, which runs the machine's firmware or kernel when this returns.
func (h *Hypervisor) launch(ctx context.Context, m machine.Spec, computer []string) (err error) {
	console, err := os.OpenFile(h.keeper.ConsolePath(m.ID), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	if err := os.Remove(h.socket(m.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tap, err := h.config.Network.AttachTap(ctx, m.NIC)
	if err != nil {
		return err
	}
	defer tap.Close()
	order, word, err := os.Pipe()
	if err != nil {
		return err
	}
	defer word.Close()

	// The shell becomes QEMU when it reads a line. At the end of the file, its maker's, it ends.
	child := exec.Command("/bin/sh", append([]string{"-c", `read -r _ && exec "$@" </dev/null`, "sh"}, computer...)...)
	child.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	child.Dir = "/"
	child.Stdin, child.Stdout, child.Stderr = order, console, console
	child.ExtraFiles = []*os.File{tap} // descriptor tapFD
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	order.Close()
	if err != nil {
		return fmt.Errorf("starting its process: %w", err)
	}
	p, err := h.keeper.Introduce(m.ID, child)
	if err != nil {
		return err
	}
	if _, err = word.WriteString("go\n"); err == nil {
		err = awaitMonitor(ctx, h.socket(m.ID), p.Ended)
	}
	if err != nil {
		return errors.Join(err, h.keeper.Discard(p))
	}
	h.keeper.Watch(p)
	return nil
}
