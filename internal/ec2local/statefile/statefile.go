// Package statefile keeps the state of ec2local's smaller services: one JSON file each, replaced as a whole.
package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// State is what a service has to remember.
type State[T any] interface {
	// Clone makes a copy with maps and slices of its own.
	Clone() T
}

// Store is a state, in memory and in a file. It may be used from many goroutines.
type Store[T State[T]] struct {
	file string

	mu    sync.Mutex
	state T
}

// Open reads the state from a file, or begins with the one given.
func Open[T State[T]](file string, begin T) (*Store[T], error) {
	s := &Store[T]{file: file, state: begin}
	return s, read(file, &s.state)
}

// Now is the state of this moment. It is not to be modified.
func (s *Store[T]) Now() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Change publishes a changed state; edit gets a copy. Nothing has changed if there is an error.
func (s *Store[T]) Change(edit func(*T) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.state.Clone()
	if err := edit(&next); err != nil {
		return err
	}
	if err := write(s.file, next); err != nil {
		return err
	}
	s.state = next
	return nil
}

// read fills what into points to from a file, and leaves it as it is if there is none yet.
func read(file string, into any) error {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", filepath.Base(file), err)
	}
	return nil
}

// write replaces a file: the next start sees the old content or the new one.
func write(file string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(file+".tmp", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(file), err)
	}
	return nil
}
