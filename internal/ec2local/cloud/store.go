package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// store keeps the records in files, one each. A reservation's file is written after those of its instances, so that a
// launch of several instances is there as a whole or not at all: an instance whose reservation is missing does not
// count.
type store struct{ dir string }

const (
	worldFile       = "world.json"
	reservationsDir = "reservations"
	instancesDir    = "instances"
)

// openStore makes the folders and removes what an interrupted write left.
func openStore(dir string) (store, error) {
	s := store{dir: dir}
	for _, folder := range []string{"", reservationsDir, instancesDir} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return store{}, fmt.Errorf("opening the state: %w", err)
		}
		left, err := filepath.Glob(filepath.Join(dir, folder, "*.tmp"))
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
	err = s.read(worldFile, &w)
	if errors.Is(err, fs.ErrNotExist) {
		return World{}, false, nil
	}
	return w, err == nil, err
}

func (s store) writeWorld(w World) error { return s.write(worldFile, w) }

// readAll reads all reservations and their instances, in no particular order, and removes what an interrupted launch or
// an interrupted forgetting left.
func (s store) readAll() ([]Reservation, []*Instance, error) {
	reservations, err := readFolder[Reservation](s, reservationsDir)
	if err != nil {
		return nil, nil, err
	}
	all, err := readFolder[*Instance](s, instancesDir)
	if err != nil {
		return nil, nil, err
	}
	members := map[string]bool{}
	for _, r := range reservations {
		for _, id := range r.Instances {
			members[id] = true
		}
	}
	var instances []*Instance
	inhabited := map[string]bool{}
	for _, i := range all {
		if !members[i.ID] {
			if err := s.removeInstance(i.ID); err != nil {
				return nil, nil, err
			}
			continue
		}
		instances = append(instances, i)
		inhabited[i.ReservationID] = true
	}
	for _, r := range reservations {
		if !inhabited[r.ID] {
			if err := s.removeReservation(r.ID); err != nil {
				return nil, nil, err
			}
		}
	}
	reservations = slices.DeleteFunc(reservations, func(r Reservation) bool { return !inhabited[r.ID] })
	return reservations, instances, nil
}

func readFolder[T any](s store, folder string) ([]T, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, folder))
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", folder, err)
	}
	var out []T
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var v T
		if err := s.read(filepath.Join(folder, e.Name()), &v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// writeLaunch writes a new reservation with its instances.
func (s store) writeLaunch(r Reservation, instances []*Instance) error {
	for _, i := range instances {
		if err := s.writeInstance(i); err != nil {
			return err
		}
	}
	return s.write(filepath.Join(reservationsDir, r.ID+".json"), r)
}

func (s store) writeInstance(i *Instance) error {
	return s.write(filepath.Join(instancesDir, i.ID+".json"), i)
}

func (s store) removeReservation(id string) error {
	return s.remove(filepath.Join(reservationsDir, id+".json"))
}

func (s store) removeInstance(id string) error {
	return s.remove(filepath.Join(instancesDir, id+".json"))
}

func (s store) read(name string, into any) error {
	raw, err := os.ReadFile(filepath.Join(s.dir, name))
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
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

func (s store) remove(name string) error {
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}
