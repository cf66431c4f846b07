package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// The files of a machine, all in one directory that is named after it.
const (
	specFile    = "spec.json"    // the machine.Spec
	processFile = "process.json" // who its init is; missing while it is powered off
	consoleFile = "console"
	rootDir     = "root"      // its disk
	rootDraft   = "root.part" // its disk before it is complete
	kernelDir   = "kernel"    // what it sees in place of some files of /proc and /sys
)

// dir is where the machine's files are.
func (h *Hypervisor) dir(id string) string { return filepath.Join(h.config.StateDir, "machines", id) }

func (h *Hypervisor) readSpec(id string) (machine.Spec, error) {
	var s machine.Spec
	return s, readJSON(filepath.Join(h.dir(id), specFile), &s)
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces the file as a whole: a reader finds the old or the new content, also after a crash.
func writeJSON(path string, from any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	draft := path + ".part"
	if err := os.WriteFile(draft, data, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// removeFile removes a file that may be gone already.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
