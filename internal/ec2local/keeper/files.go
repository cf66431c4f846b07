package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// The files that the Keeper has of a machine, beside the hypervisor's own.
const (
	specFile    = "spec.json"    // the machine.Spec
	processFile = "process.json" // who its process is; missing while it is powered off
	consoleFile = "console"
)

// Dir is where the machine's files are.
func (k *Keeper) Dir(id string) string { return filepath.Join(k.dir, id) }

// Prepare makes the machine's directory and keeps its specification there.
func (k *Keeper) Prepare(m machine.Spec) error {
	if !filepath.IsLocal(m.ID) || filepath.Base(m.ID) != m.ID {
		return fmt.Errorf("the ID is no file name")
	}
	if err := os.Mkdir(k.Dir(m.ID), 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := writeJSON(filepath.Join(k.Dir(m.ID), specFile), m); err != nil {
		return fmt.Errorf("keeping its specification: %w", err)
	}
	return nil
}

// Spec is what Prepare kept. The error wraps fs.ErrNotExist if there is none.
func (k *Keeper) Spec(id string) (machine.Spec, error) {
	var s machine.Spec
	return s, readJSON(filepath.Join(k.Dir(id), specFile), &s)
}

// Machines returns the IDs of all machines of which there is anything left, running or not.
func (k *Keeper) Machines() ([]string, error) {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return nil, fmt.Errorf("listing machines: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Forget removes the machine's directory. The machine must have ended.
func (k *Keeper) Forget(id string) error { return os.RemoveAll(k.Dir(id)) }

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
