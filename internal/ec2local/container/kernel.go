package container

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// ownSysctls are settings of the whole kernel that a kubelet, or a privileged pod, sets. A machine has files in their
// place: writing them succeeds and changes nothing.
var ownSysctls = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"vm/max_map_count", "vm/overcommit_memory", "vm/panic_on_oom",
}

// makeKernelFiles writes the files that a machine sees in place of the kernel's, and returns their names below kernelDir,
// which are also their names below /: "proc/meminfo". They are written anew at each start.
func (h *Hypervisor) makeKernelFiles(m machine.Spec) ([]string, error) {
	cpus := max(1, int(math.Ceil(m.VCPUs)))
	host, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the host's CPUs: %w", err)
	}
	online := fmt.Sprintf("0-%d\n", cpus-1)
	if cpus == 1 {
		online = "0\n"
	}
	files := map[string]string{
		"proc/meminfo": meminfo(m.MemoryMiB),
		"proc/cpuinfo": cpuinfo(string(host), cpus),
		"proc/swaps":   "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
	}
	for _, list := range []string{"online", "present", "possible"} {
		files["sys/devices/system/cpu/"+list] = online
	}
	for _, name := range ownSysctls {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			continue // not in this kernel
		}
		files["proc/sys/"+name] = string(value)
	}
	var names []string
	for name, content := range files {
		path := filepath.Join(h.keeper.Dir(m.ID), kernelDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// meminfo is /proc/meminfo of a computer with so much memory, none of it in use. It does not change.
func meminfo(mebibytes int64) string {
	var b strings.Builder
	line := func(name string, kibibytes int64) { fmt.Fprintf(&b, "%-15s %8d kB\n", name+":", kibibytes) }
	total := mebibytes * 1024
	line("MemTotal", total)
	line("MemFree", total)
	line("MemAvailable", total)
	for _, name := range []string{
		"Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal", "SwapFree", "Dirty", "Writeback",
		"AnonPages", "Mapped", "Shmem", "Slab", "SReclaimable", "SUnreclaim",
	} {
		line(name, 0)
	}
	b.WriteString("HugePages_Total:       0\nHugePages_Free:        0\n")
	line("Hugepagesize", 2048)
	return b.String()
}

var cpuNumber = regexp.MustCompile(`(?m)^(processor|core id|apicid|initial apicid|siblings|cpu cores)(\s*:).*$`)

// cpuinfo is /proc/cpuinfo of a computer with so many CPUs of the host's kind, all of them cores of one package.
func cpuinfo(host string, cpus int) string {
	first, _, _ := strings.Cut(host, "\n\n")
	var b strings.Builder
	for i := range cpus {
		b.WriteString(cpuNumber.ReplaceAllStringFunc(first, func(line string) string {
			name := cpuNumber.FindStringSubmatch(line)
			number := i
			if name[1] == "siblings" || name[1] == "cpu cores" {
				number = cpus
			}
			return fmt.Sprintf("%s%s %d", name[1], name[2], number)
		}))
		b.WriteString("\n\n")
	}
	return b.String()
}
