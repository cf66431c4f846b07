// Package snapshot keeps the account's EBS snapshots: what was written to each block of a disk, and when. They are made
// block by block, as by the EBS direct APIs; there are no volumes to make them of.
package snapshot

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/statefile"
)

// BlockSize is how large blocks are, in bytes.
const BlockSize = 512 << 10

// sealing is how long a snapshot takes to be completed after it was said to be complete.
const sealing = time.Second

// State is what a snapshot may be in.
type State string

// The states.
const (
	Pending   State = "pending"
	Completed State = "completed"
	Failed    State = "error"
)

// Snapshot is one of them.
type Snapshot struct {
	ID, Description string
	SizeGiB         int64
	// KMSKeyARN is the key of an encrypted one, "" of others. Nothing is encrypted here.
	KMSKeyARN string
	Tags      map[string]string
	// Token is the one that it was asked for with.
	Token   string
	Started time.Time
	// Touched is when it was written to last. Nobody waits longer than Timeout for more.
	Touched time.Time
	Timeout time.Duration
	// Sealed is when it was said to be complete; zero before.
	Sealed time.Time
}

// State is that of a moment.
func (s Snapshot) State(now time.Time) State {
	switch {
	case !s.Sealed.IsZero() && !now.Before(s.Sealed.Add(sealing)):
		return Completed
	case s.Sealed.IsZero() && now.After(s.Touched.Add(s.Timeout)):
		return Failed
	}
	return Pending
}

// What can be wrong with a request. Errors of the Store wrap one of these, unless it is broken.
var (
	ErrNotFound   = errors.New("there is no such snapshot")
	ErrNotPending = errors.New("the snapshot is not pending")
	ErrBlock      = errors.New("the snapshot has no such block")
	ErrChecksum   = errors.New("the checksum is another one")
	ErrCount      = errors.New("another number of blocks was written")
	ErrConflict   = errors.New("the client token was used for another snapshot")
)

// Store is all snapshots. It may be used from many goroutines.
type Store struct {
	dir   string
	now   func() time.Time
	state *statefile.Store[state]
}

// state is what is on disk, beside the snapshots' own files.
type state struct{ Snapshots map[string]Snapshot }

// Clone implements [statefile.State].
func (s state) Clone() state { return state{maps.Clone(s.Snapshots)} }

// Open reads what is in a directory, which is made if missing.
func Open(dir string, now func() time.Time) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the snapshots: %w", err)
	}
	s, err := statefile.Open(filepath.Join(dir, "snapshots.json"), state{map[string]Snapshot{}})
	if err != nil {
		return nil, fmt.Errorf("opening the snapshots: %w", err)
	}
	return &Store{dir: dir, now: now, state: s}, nil
}

// Disk is the file with a snapshot's blocks. It is sparse, and never changes once the snapshot is completed.
func (s *Store) Disk(id string) string { return filepath.Join(s.dir, id) }

// All are all snapshots, by ID.
func (s *Store) All() []Snapshot {
	all := s.state.Now().Snapshots
	out := make([]Snapshot, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[id])
	}
	return out
}

// Get returns a snapshot.
func (s *Store) Get(id string) (Snapshot, error) {
	found, ok := s.state.Now().Snapshots[id]
	if !ok {
		return Snapshot{}, ErrNotFound
	}
	return found, nil
}

// Start makes a snapshot to be written to. One that has the same token is returned instead, if it was asked for the same.
func (s *Store) Start(want Snapshot) (Snapshot, error) {
	made := want
	err := s.state.Change(func(now *state) error {
		for _, known := range now.Snapshots {
			if want.Token == "" || known.Token != want.Token {
				continue
			}
			made = known
			if known.Description != want.Description || known.SizeGiB != want.SizeGiB || known.KMSKeyARN != want.KMSKeyARN ||
				known.Timeout != want.Timeout || !maps.Equal(known.Tags, want.Tags) {
				return ErrConflict
			}
			return nil
		}
		made.Started = s.now().UTC()
		made.Touched = made.Started
		disk, err := os.Create(s.Disk(made.ID))
		if err != nil {
			return err
		}
		defer disk.Close()
		if err := disk.Truncate(made.SizeGiB << 30); err != nil {
			return err
		}
		now.Snapshots[made.ID] = made
		return nil
	})
	return made, wrap("starting a snapshot", err)
}

// Put writes a block, whose checksum the caller has computed.
func (s *Store) Put(id string, index int, block []byte) error {
	return wrap("writing a block", s.state.Change(func(now *state) error {
		snapshot, err := s.pending(now, id)
		if err != nil {
			return err
		}
		if index < 0 || int64(index) >= snapshot.SizeGiB<<30/BlockSize || len(block) != BlockSize {
			return ErrBlock
		}
		disk, err := os.OpenFile(s.Disk(id), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer disk.Close()
		if _, err := disk.WriteAt(block, int64(index)*BlockSize); err != nil {
			return err
		}
		snapshot.Touched = s.now().UTC()
		now.Snapshots[id] = snapshot
		return s.addChecksum(id, index, sha256.Sum256(block))
	}))
}

// Complete ends the writing. The caller says how many blocks there must be, and may say their checksum: that of all
// blocks' checksums, in the blocks' order.
func (s *Store) Complete(id string, blocks int, checksum string) (Snapshot, error) {
	var done Snapshot
	err := s.state.Change(func(now *state) error {
		snapshot, err := s.pending(now, id)
		if err != nil {
			return err
		}
		written, err := s.checksums(id)
		if err != nil {
			return err
		}
		if len(written) != blocks {
			return ErrCount
		}
		sum := sha256.New()
		for _, index := range slices.Sorted(maps.Keys(written)) {
			block := written[index]
			sum.Write(block[:])
		}
		if checksum != "" && checksum != base64.StdEncoding.EncodeToString(sum.Sum(nil)) {
			return ErrChecksum
		}
		snapshot.Sealed = s.now().UTC()
		now.Snapshots[id] = snapshot
		done = snapshot
		return nil
	})
	return done, wrap("completing a snapshot", err)
}

// Delete removes a snapshot in whatever state it is.
func (s *Store) Delete(id string) error {
	return wrap("deleting a snapshot", s.state.Change(func(now *state) error {
		if _, ok := now.Snapshots[id]; !ok {
			return ErrNotFound
		}
		delete(now.Snapshots, id)
		return errors.Join(remove(s.Disk(id)), remove(s.checksumsFile(id)))
	}))
}

// pending finds a snapshot that may be written to.
func (s *Store) pending(now *state, id string) (Snapshot, error) {
	snapshot, ok := now.Snapshots[id]
	switch {
	case !ok:
		return Snapshot{}, ErrNotFound
	case !snapshot.Sealed.IsZero() || snapshot.State(s.now()) != Pending:
		return Snapshot{}, ErrNotPending
	}
	return snapshot, nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
