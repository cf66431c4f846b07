package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// store keeps the records in files: world.json, and one file per reservation with its instances, so that a launch of
// several instances is there as a whole or not at all.
type store struct{ dir string }

// record is the content of a reservation's file.
type record struct {
	Reservation Reservation
	Instances   []*Instance
}

const (
	worldFile       = "world.json"
	reservationsDir = "reservations"
)

// openStore makes the folders and removes what an interrupted write left.
func openStore(dir string) (store, error) {
	s := store{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, reservationsDir), 0o700); err != nil {
		return store{}, fmt.Errorf("opening the state: %w", err)
	}
	for _, pattern := range []string{"*.tmp", reservationsDir + "/*.tmp"} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return store{}, fmt.Errorf("opening the state: %w", err)
		}
		for _, file := range left {
			if err := os.Remove(file); err != nil {
				return store{}, fmt.Errorf("opening the state: %w", err)
			}
		}
	}
	return s, nil
}

// readWorld answers false when there is no world yet.
func (s store) readWorld() (w World, ok bool, err error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, worldFile))
	if errors.Is(err, fs.ErrNotExist) {
		return World{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &w)
	}
	if err != nil {
		return World{}, false, fmt.Errorf("reading %s: %w", worldFile, err)
	}
	return w, true, nil
}

func (s store) writeWorld(w World) error { return s.write(worldFile, w) }

// readReservations reads all reservations, in no particular order.
func (s store) readReservations() ([]record, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, reservationsDir))
	if err != nil {
		return nil, fmt.Errorf("reading the reservations: %w", err)
	}
	var out []record
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(s.dir, reservationsDir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the reservations: %w", err)
		}
		var r record
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, fmt.Errorf("reading reservation %s: %w", e.Name(), err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (s store) writeReservation(r record) error {
	return s.write(filepath.Join(reservationsDir, r.Reservation.ID+".json"), r)
}

func (s store) removeReservation(id string) error {
	err := os.Remove(filepath.Join(s.dir, reservationsDir, id+".json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting reservation %s: %w", id, err)
	}
	return nil
}

// write replaces a file as a whole: readers and the next start see the old content or the new one.
func (s store) write(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file+".tmp", raw, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
