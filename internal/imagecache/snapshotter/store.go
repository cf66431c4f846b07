package snapshotter

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// kind of a snapshot.
type kind string

const (
	active    kind = "active"
	view      kind = "view"
	committed kind = "committed"
)

// snapshot is what is known of one.
type snapshot struct {
	// ID never changes and is never used again.
	ID uint64 `json:"id"`
	// Key is containerd's name for it, which changes when it is committed.
	Key string `json:"key"`
	// Parent is the key of the snapshot beneath, empty if there is none.
	Parent  string            `json:"parent,omitempty"`
	Kind    kind              `json:"kind"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	// Size and Inodes are what a committed snapshot takes of the disk.
	Size   int64 `json:"size,omitempty"`
	Inodes int64 `json:"inodes,omitempty"`
	// Cached is set if the snapshot is a layer of the cache.
	Cached *cached `json:"cached,omitempty"`
}

// cached is a layer of the cache and whose it is.
type cached struct {
	Of    grant.Question `json:"of"`
	Layer layer.Layer    `json:"layer"`
}

// store keeps snapshots on disk: a directory for each, named by its ID.
type store struct {
	dir  string
	next uint64
	keys map[string]*snapshot
}

// recordFile describes the snapshot in whose directory it is. It may hold a
// layer's key.
const recordFile = "snapshot.json"

// openStore reads what is there. Directories without a whole record were being
// made or removed when an earlier process ended; they are returned.
func openStore(dir string) (s *store, debris []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("opening the snapshots: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the snapshots: %w", err)
	}
	s = &store{dir: dir, keys: map[string]*snapshot{}}
	for _, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue
		}
		s.next = max(s.next, id+1)
		data, err := os.ReadFile(filepath.Join(dir, e.Name(), recordFile))
		if errors.Is(err, os.ErrNotExist) {
			debris = append(debris, filepath.Join(dir, e.Name()))
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("opening the snapshots: %w", err)
		}
		var found snapshot
		if err := json.Unmarshal(data, &found); err != nil || found.ID != id {
			return nil, nil, fmt.Errorf("opening the snapshots: the record of %d is not whole: %w", id, err)
		}
		s.keys[found.Key] = &found
	}
	return s, debris, nil
}

// newID returns an ID and makes its directory.
func (s *store) newID() (uint64, error) {
	id := s.next
	s.next++
	if err := os.Mkdir(s.path(id), 0o700); err != nil {
		return 0, fmt.Errorf("making a snapshot: %w", err)
	}
	return id, nil
}

func (s *store) path(id uint64) string { return filepath.Join(s.dir, strconv.FormatUint(id, 10)) }

// fs is where a snapshot's own files are, upper those of one that can be
// written.
func (s *store) fs(id uint64) string   { return filepath.Join(s.path(id), "fs") }
func (s *store) work(id uint64) string { return filepath.Join(s.path(id), "work") }

// put writes the snapshot down, whole or not at all, and then knows it under
// its key in place of the one it had.
func (s *store) put(sn *snapshot, had string) error {
	data, err := json.Marshal(sn)
	if err != nil {
		return fmt.Errorf("writing a snapshot down: %w", err)
	}
	path := filepath.Join(s.path(sn.ID), recordFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing a snapshot down: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing a snapshot down: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing a snapshot down: %w", err)
	}
	delete(s.keys, had)
	s.keys[sn.Key] = sn
	return nil
}

// forget removes the snapshot's record; its directory is debris then.
func (s *store) forget(sn *snapshot) error {
	if err := os.Remove(filepath.Join(s.path(sn.ID), recordFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a snapshot: %w", err)
	}
	delete(s.keys, sn.Key)
	return nil
}

// children says whether any snapshot is on top of this one.
func (s *store) children(key string) bool {
	for _, other := range s.keys {
		if other.Parent == key {
			return true
		}
	}
	return false
}

// lineage returns the snapshot's ancestors, the nearest first.
func (s *store) lineage(sn *snapshot) []*snapshot {
	var all []*snapshot
	for p := s.keys[sn.Parent]; p != nil; p = s.keys[p.Parent] {
		all = append(all, p)
	}
	return all
}
