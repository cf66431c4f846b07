package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

const (
	// cpuPeriod is the kernel's default period for CPU quotas, in microseconds.
	cpuPeriod = 100_000
	// maxTasks stops a fork bomb in a machine before it takes the host's process IDs, of which there may be only 32768.
	maxTasks = 8192
	// deviceAccess is what machines are refused of block devices, the host's disks above all. They may make the special
	// files, since runc insists on letting its containers do so.
	deviceAccess = "rw"
)

// quota is the CPU time of a machine in each cpuPeriod, in microseconds. More than the host has is no limit, and no error.
func quota(vcpus float64) int64 { return max(1000, int64(vcpus*cpuPeriod)) }

// createV1 makes the machine's cgroup in a version 1 hierarchy.
func (c *cgroups) createV1(h hierarchy, m machine.Spec) error {
	for _, dir := range []string{c.parent(h), c.path(h, m.ID)} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if h.has("cpuset") { // nobody can enter a cpuset that is empty, as all are at first
			if err := inheritCPUs(dir); err != nil {
				return err
			}
		}
	}
	type setting struct{ controller, file, value string }
	memory := strconv.FormatInt(m.MemoryMiB<<20, 10)
	settings := []setting{
		{"memory", "memory.limit_in_bytes", memory},
		{"cpu", "cpu.cfs_period_us", strconv.Itoa(cpuPeriod)},
		{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota(m.VCPUs), 10)},
		{"pids", "pids.max", strconv.Itoa(maxTasks)},
		{"devices", "devices.deny", "b *:* " + deviceAccess},
	}
	for _, s := range settings {
		if !h.has(s.controller) {
			continue
		}
		if err := write(filepath.Join(c.path(h, m.ID), s.file), s.value); err != nil {
			return fmt.Errorf("setting %s: %w", s.file, err)
		}
	}
	// A host may have swap, and its kernel may not count it.
	if h.has("memory") {
		err := write(filepath.Join(c.path(h, m.ID), "memory.memsw.limit_in_bytes"), memory)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("limiting swap: %w", err)
		}
	}
	return nil
}

// inheritCPUs copies a cpuset from its parent.
func inheritCPUs(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		set, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(set)) != "" {
			continue
		}
		if set, err = os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err != nil {
			return err
		}
		if err := write(filepath.Join(dir, file), string(set)); err != nil {
			return err
		}
	}
	return nil
}

// createUnified makes the machine's cgroup in the version 2 hierarchy.
func (c *cgroups) createUnified(h hierarchy, m machine.Spec) error {
	if !c.pure() { // beside version 1 it limits nothing
		return os.MkdirAll(c.path(h, m.ID), 0o755)
	}
	period, quota := uint64(cpuPeriod), quota(m.VCPUs)
	memory := m.MemoryMiB << 20
	resources := &cgroup2.Resources{
		CPU:    &cgroup2.CPU{Max: cgroup2.NewCPUMax(&quota, &period)},
		Memory: &cgroup2.Memory{Max: &memory},
		Pids:   &cgroup2.Pids{Max: maxTasks},
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: true, Type: "a", Major: ptr(-1), Minor: ptr(-1), Access: "rwm"},
			{Allow: false, Type: "b", Major: ptr(-1), Minor: ptr(-1), Access: deviceAccess},
		},
	}
	manager, err := cgroup2.NewManager(h.mountpoint, filepath.Join("/kip-"+c.cluster, m.ID), resources)
	if err != nil {
		return err
	}
	// What the machine's own cgroups may use besides, where this kernel has it.
	for _, controller := range []string{"cpuset", "io", "hugetlb"} {
		_ = manager.ToggleControllers([]string{controller}, cgroup2.Enable)
	}
	// The file is missing where the kernel does not count swap.
	err = write(filepath.Join(c.path(h, m.ID), "memory.swap.max"), "0")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("limiting swap: %w", err)
	}
	return nil
}

func ptr(n int64) *int64 { return &n }
