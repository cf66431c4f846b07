package statefile

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type counts map[string]int

func (c counts) Clone() counts { return maps.Clone(c) }

func TestStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "counts.json")
	open := func() *Store[counts] {
		t.Helper()
		s, err := Open(file, counts{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	was := s.Now()
	one := func(c *counts) error { (*c)["a"]++; return nil }
	if err := s.Change(one); err != nil {
		t.Fatal(err)
	}
	if len(was) > 0 {
		t.Errorf("a change modified what others hold: %v", was)
	}
	refused := errors.New("refused")
	if err := s.Change(func(c *counts) error { (*c)["b"]++; return refused }); !errors.Is(err, refused) {
		t.Errorf("the edit's error is %v", err)
	}
	want := counts{"a": 1}
	for what, got := range map[string]counts{"now": s.Now(), "after a restart": open().Now()} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", what, diff)
		}
	}
	// A directory in the file's place: nothing can be written there.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Change(one); err == nil {
		t.Error("a change that was not written down is one")
	}
	if diff := cmp.Diff(want, s.Now()); diff != "" {
		t.Errorf("after a change that could not be written (-want +got)\n%s", diff)
	}
	if _, err := Open(file, counts{}); err == nil {
		t.Error("a directory is a state")
	}
}
