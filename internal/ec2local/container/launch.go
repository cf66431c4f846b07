package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netns"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// plan is what the process that becomes a machine's init is told to do first.
type plan struct {
	Hostname string
	Root     string // the machine's disk
	// Binds are directories of the host that the machine sees read-only, by their path in the machine.
	Binds map[string]string
	// Merged are directories of the image, by their path in the machine, where they lie over the host's directory of
	// the same name, read-only as well.
	Merged map[string]string
	// Shares are as in Config.
	Shares map[string]string
	// KernelDir holds files that hide the kernel's, by the name they have below /.
	KernelDir   string
	KernelFiles []string
	// CgroupsV1 are the mount options of the version 1 hierarchies, by their names in /sys/fs/cgroup. Empty where there
	// is version 2 only.
	CgroupsV1 map[string]string
	// GPUs is how many device nodes look like a GPU's.
	GPUs int
	// Environment is init's.
	Environment []string
}

func (h *Hypervisor) plan(m machine.Spec, kernelFiles []string) plan {
	p := plan{
		Hostname:    m.Hostname,
		Root:        filepath.Join(h.keeper.Dir(m.ID), rootDir),
		Binds:       map[string]string{},
		Merged:      map[string]string{},
		Shares:      h.config.Shares,
		CgroupsV1:   map[string]string{},
		KernelDir:   filepath.Join(h.keeper.Dir(m.ID), kernelDir),
		KernelFiles: kernelFiles,
		GPUs:        m.GPUs,
		Environment: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=/root",
			"container=kip", // tells systemd, and who else asks, that this is no computer
		},
	}
	image := filepath.Join(m.Image, "rootfs")
	if opt := filepath.Join(image, "opt"); isDir(opt) {
		p.Binds["opt"] = opt
	}
	if !hasOwnUsr(image) {
		p.Binds["usr"] = "/usr"
		if isDir("/etc/alternatives") {
			p.Binds["etc/alternatives"] = "/etc/alternatives"
		}
	}
	for _, name := range mergedDirs {
		if mergedWith(image, name) {
			p.Merged[name] = filepath.Join(image, name)
		}
	}
	for _, hierarchy := range h.cgroups.hierarchies {
		if !hierarchy.unified {
			dir, options := hierarchy.inside()
			p.CgroupsV1[dir] = options
		}
	}
	return p
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// launch starts process 1 of the machine and returns once it has become init.
func (h *Hypervisor) launch(ctx context.Context, m machine.Spec, todo plan) (err error) {
	order, err := json.Marshal(todo)
	if err != nil {
		return err
	}
	console, err := os.OpenFile(h.keeper.ConsolePath(m.ID), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	orderReader, orderWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer orderWriter.Close()
	resultReader, resultWriter, err := os.Pipe()
	if err != nil {
		orderReader.Close()
		return err
	}
	defer resultReader.Close()

	child := exec.Command("/proc/self/exe")
	child.Args = []string{initName}
	child.Env = []string{}
	child.Dir = "/"
	child.Stdout, child.Stderr = console, console
	child.ExtraFiles = []*os.File{orderReader, resultWriter} // descriptors orderFD and resultFD
	child.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC |
			syscall.CLONE_NEWNET,
	}
	err = child.Start()
	orderReader.Close()
	resultWriter.Close()
	if err != nil {
		return fmt.Errorf("starting its first process: %w", err)
	}
	p, err := h.keeper.Introduce(m.ID, child)
	if err != nil {
		return err
	}
	if err = h.place(ctx, m, child.Process.Pid); err == nil {
		err = sendOrder(ctx, order, orderWriter, resultReader)
	}
	if err != nil {
		return errors.Join(err, h.keeper.Discard(p))
	}
	h.keeper.Watch(p)
	return nil
}

// place gives the waiting process its place in the world: cgroups, a network.
func (h *Hypervisor) place(ctx context.Context, m machine.Spec, pid int) error {
	if err := h.cgroups.add(m.ID, pid); err != nil {
		return err
	}
	inside, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("opening its network namespace: %w", err)
	}
	defer inside.Close()
	return h.config.Network.Attach(ctx, m.NIC, inside)
}

// sendOrder tells the waiting process what to do and returns when it has become init, or how it failed.
func sendOrder(ctx context.Context, order []byte, to, from *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = from.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := to.Write(order); err != nil {
		return fmt.Errorf("instructing its first process: %w", err)
	}
	if err := to.Close(); err != nil {
		return fmt.Errorf("instructing its first process: %w", err)
	}
	// The descriptor closes when the process becomes init.
	message, err := io.ReadAll(from)
	if err != nil {
		return errors.Join(fmt.Errorf("waiting for its first process: %w", err), ctx.Err())
	}
	if message = bytes.TrimSpace(message); len(message) > 0 {
		return errors.New(string(message))
	}
	return nil
}
