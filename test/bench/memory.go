package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// podContainer is the name of the tiny pod's container.
const podContainer = "pod"

// processMemory is what one process of a machine takes, in KiB.
type processMemory struct {
	name string
	// pid is the process' ID on this machine, inside the one in its own.
	pid, inside         int
	anonymous, resident int64
	// ofPod: it is a container of the pod, not what runs it.
	ofPod bool
}

func (p *processMemory) add(q processMemory) {
	p.anonymous += q.anonymous
	p.resident += q.resident
}

// memory reads every process of the machine, the largest first.
func (m machine) memory() ([]processMemory, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids) // what was started first comes first
	var all []processMemory
	pauses := 0
	for _, pid := range pids {
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(groups), "/"+m.id) {
			continue // ended meanwhile, or another's
		}
		p, err := readProcess(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p.name == "pause" {
			// The sandbox is the first of the two, the pod's container the second.
			if pauses++; pauses > 1 {
				p.name, p.ofPod = "the pod's container", true
			}
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b processMemory) int { return cmp.Compare(b.anonymous, a.anonymous) })
	return all, nil
}

func readProcess(pid int) (processMemory, error) {
	p := processMemory{pid: pid}
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		words := strings.Fields(value)
		if len(words) == 0 {
			continue
		}
		number, _ := strconv.ParseInt(words[0], 10, 64)
		switch key {
		case "Name":
			p.name = words[0]
		case "NSpid":
			p.inside, _ = strconv.Atoi(words[min(1, len(words)-1)])
		case "RssAnon":
			p.anonymous = number
		case "VmRSS":
			p.resident = number
		}
	}
	if name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		p.name = filepath.Base(name)
	}
	return p, nil
}

// amount is a figure of the machine's memory cgroup.
type amount struct {
	name  string
	bytes int64
}

// cgroupMemory reads the memory cgroup, of version 1 or 2.
func (m machine) cgroupMemory() ([]amount, error) {
	dir, stat := "/sys/fs/cgroup/kip-"+clusterName+"/"+m.id, []amountName{
		{"anonymous memory", "memory.stat", "anon"}, {"page cache and tmpfs", "memory.stat", "file"},
		{"kernel", "memory.stat", "kernel"}, {"of it slab that cannot be reclaimed", "memory.stat", "slab_unreclaimable"},
		{"all that is charged", "memory.current", ""}, {"the most that was ever charged", "memory.peak", ""},
	}
	if _, err := os.Stat(dir); err != nil {
		dir, stat = "/sys/fs/cgroup/memory/kip-"+clusterName+"/"+m.id, []amountName{
			{"anonymous memory", "memory.stat", "total_rss"}, {"page cache and tmpfs", "memory.stat", "total_cache"},
			{"kernel", "memory.kmem.usage_in_bytes", ""},
			{"all that is charged", "memory.usage_in_bytes", ""}, {"the most that was ever charged", "memory.max_usage_in_bytes", ""},
		}
	}
	var all []amount
	for _, s := range stat {
		content, err := os.ReadFile(filepath.Join(dir, s.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not every kernel has every file
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
			if !ok {
				name, value = "", name
			}
			if name != s.field {
				continue
			}
			bytes, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.file, err)
			}
			all = append(all, amount{s.name, bytes})
		}
	}
	return all, nil
}

// amountName says where a figure stands: in which file and, where there are
// several, in which line.
type amountName struct{ name, file, field string }
