package status

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what one process takes.
type Memory struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// AnonymousKiB cannot be reclaimed (RssAnon); ResidentKiB (VmRSS) counts
	// files as well, which can be.
	AnonymousKiB int64 `json:"anonymousKiB"`
	ResidentKiB  int64 `json:"residentKiB"`
}

// ReadMemory lists the processes below the proc directory that are the cell's
// own overhead: this agent, its services by PID, and containerd's shims.
func ReadMemory(proc string, services map[int]string) []Memory {
	own := os.Getpid()
	list := []Memory{readMemory(proc, own, "kip-cell")}
	entries, _ := os.ReadDir(proc)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == own {
			continue
		}
		if name, ok := services[pid]; ok {
			list = append(list, readMemory(proc, pid, name))
			continue
		}
		comm, err := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
		if err == nil && strings.HasPrefix(string(comm), "containerd-shim") {
			list = append(list, readMemory(proc, pid, "containerd-shim"))
		}
	}
	return list
}

// readMemory returns zeros for a process that has just ended.
func readMemory(proc string, pid int, name string) Memory {
	m := Memory{Name: name, PID: pid}
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "status"))
	if err != nil {
		return m
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch key {
		case "RssAnon":
			m.AnonymousKiB = kibibytes(value)
		case "VmRSS":
			m.ResidentKiB = kibibytes(value)
		}
	}
	return m
}

func kibibytes(value string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
	return n
}
