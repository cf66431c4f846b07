package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// snapshotterProgram serves layers of the image cache in a cell.
const snapshotterProgram = "kip-snapshotter"

// readByCache is what the machine's snapshotter has read since it began, in
// bytes: hardly more than what it read of the share.
func (m machine) readByCache() (int64, error) {
	processes, err := m.memory()
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		if p.name != snapshotterProgram {
			continue
		}
		counters, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(counters)) {
			if value, ok := strings.CutPrefix(line, "rchar: "); ok {
				return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("there is no %s in %s", snapshotterProgram, m.id)
}
