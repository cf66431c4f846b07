package controller

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestCheck goes round the files, and finds the one that was changed where nobody
// looks otherwise.
func TestCheck(t *testing.T) {
	w := filled(t)
	files, err := w.cfg.Share.List()
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, error %v", files, err)
	}
	last := ""
	var checked []string
	for range 5 {
		got, err := w.checkNext(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		last = got.Path
		checked = append(checked, last)
	}
	if !slices.IsSorted(checked[:4]) || len(slices.Compact(slices.Clone(checked[:4]))) != 4 || checked[4] != checked[0] {
		t.Errorf("it checked %q", checked)
	}

	damaged := filepath.Join(w.share, checked[2])
	data, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	data[100] ^= 1
	if err := os.WriteFile(damaged, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := w.checkNext(t.Context(), checked[1]); err != nil || got.Path != checked[2] {
		t.Errorf("it checked %q, error %v", got.Path, err)
	}
	if _, err := os.Stat(damaged); !os.IsNotExist(err) {
		t.Errorf("the changed file is there: %v", err)
	}
	for _, pod := range []string{"first", "second", "third"} {
		if err := w.look(t, pod); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.cfg.Share.Check(w.diffIDOf(t, checked[2])); err != nil {
		t.Errorf("it was not made anew: %v", err)
	}
}

func (w *world) diffIDOf(t *testing.T, path string) string {
	t.Helper()
	for _, image := range w.images(t) {
		for _, l := range image.Status.Layers {
			if l.Path == path {
				return l.DiffID
			}
		}
	}
	t.Fatalf("no layer is in %s", path)
	return ""
}
