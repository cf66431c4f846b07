package snapshot

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"
)

// TestStates follows a snapshot over its time, and over an ec2local that is started anew.
func TestStates(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	dir := t.TempDir()
	open := func() *Store {
		s, err := Open(dir, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	state := func(id string) State {
		got, err := s.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		return got.State(now)
	}
	for _, id := range []string{"snap-left", "snap-done"} {
		if _, err := s.Start(Snapshot{ID: id, Token: id, SizeGiB: 1, Timeout: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	block := bytes.Repeat([]byte{1}, BlockSize)
	now = now.Add(50 * time.Minute)
	if err := s.Put("snap-done", 3, block); err != nil {
		t.Fatal(err)
	}
	s = open()
	now = now.Add(50 * time.Minute)
	if got := state("snap-left"); got != Failed {
		t.Errorf("a snapshot that nobody wrote to for 100 minutes is %s", got)
	}
	if err := s.Put("snap-left", 3, block); !errors.Is(err, ErrNotPending) {
		t.Errorf("writing to it: %v", err)
	}
	if err := s.Put("snap-done", 3, block); err != nil { // once more: it is one block
		t.Error(err)
	}
	if _, err := s.Complete("snap-done", 2, ""); !errors.Is(err, ErrCount) {
		t.Errorf("another number of blocks: %v", err)
	}
	if _, err := s.Complete("snap-done", 1, ""); err != nil {
		t.Fatal(err)
	}
	if got := state("snap-done"); got != Pending {
		t.Errorf("it is %s at once", got)
	}
	now = now.Add(2 * time.Hour)
	if got := state("snap-done"); got != Completed {
		t.Errorf("a completed snapshot is %s later", got)
	}
	for _, id := range []string{"snap-left", "snap-done"} {
		if err := s.Delete(id); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the list of snapshots there is something left: %v, %v", left, err)
	}
}
