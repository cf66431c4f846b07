package controller

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// filled is a world with three images of 1 MiB each, of which two share a layer,
// used an hour after each other.
func filled(t *testing.T) *world {
	t.Helper()
	h := newHost(t, "r.example.com")
	shared := layerOf(t, strings.Repeat("s", 1<<20))
	h.push(t, "first:1", imageOf(t, shared, layerOf(t, "first")))
	h.push(t, "second:1", imageOf(t, shared, layerOf(t, "second")))
	h.push(t, "third:1", imageOf(t, layerOf(t, strings.Repeat("t", 1<<20))))
	w := newWorld(t, h)
	for _, image := range []string{"first", "second", "third"} {
		if err := w.run(t, image, "r.example.com/"+image+":1"); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(time.Hour)
	}
	return w
}

func (w *world) left(t *testing.T) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(w.images(t)))
}

func TestSweep(t *testing.T) {
	const all, twoLast, last = "r.example.com/first r.example.com/second r.example.com/third", "r.example.com/second r.example.com/third", "r.example.com/third"
	for name, tc := range map[string]struct {
		reason string
		age    time.Duration
		most   int64
		want   string
		files  int
	}{
		"Young":     {"nothing is unused yet", 24 * time.Hour, 0, all, 4},
		"Unused":    {"a week, and another half hour", 7*24*time.Hour - 150*time.Minute, 0, twoLast, 3},
		"AllUnused": {"nobody has any of them", 8 * 24 * time.Hour, 0, "", 0},
		"Fits":      {"shared layers count once", 24 * time.Hour, 2<<20 + 200_000, all, 4},
		"TooLarge":  {"a shared layer stays, so two have to go", 24 * time.Hour, 2 << 20, last, 1},
		"InUse":     {"what was used a moment ago stays, even if it is too large", 0, 1, twoLast, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := filled(t)
			w.clock.Step(tc.age)
			w.cfg.MaxBytes = tc.most
			if err := w.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, strings.Join(w.left(t), " ")); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if files, err := w.cfg.Share.List(); err != nil || len(files) != 4 {
				t.Errorf("%d files at once, error %v; a cell may just have been told of them", len(files), err)
			}
			w.clock.Step(leftFor)
			w.cfg.Unused = 1 << 60
			if err := w.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if files, err := w.cfg.Share.List(); err != nil || len(files) != tc.files {
				t.Errorf("%s: %d files instead of %d, error %v", tc.reason, len(files), tc.files, err)
			}
		})
	}
}

// TestSweepLeavesWhatIsMade: files of an image that is not written down yet.
func TestSweepLeavesWhatIsMade(t *testing.T) {
	w := filled(t)
	if err := w.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.cfg.Share.Put("sha256:new", strings.NewReader("new")); err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(w.share, "v1/tmp/killed")
	if err := os.WriteFile(unfinished, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	longAgo := w.clock.Now().Add(-2 * leftFor)
	if err := os.Chtimes(unfinished, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := w.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(leftFor / 4)
	}
	if _, there, err := w.cfg.Share.Find("sha256:new"); !there || err != nil {
		t.Errorf("it was removed, error %v", err)
	}
	if _, err := os.Stat(unfinished); !os.IsNotExist(err) {
		t.Errorf("what a killed controller left is still there: %v", err)
	}
	w.clock.Step(leftFor)
	if err := w.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, there, err := w.cfg.Share.Find("sha256:new"); there || err != nil {
		t.Errorf("it is still there, error %v", err)
	}
}

// TestSweepOfAnEmptyShare: the first one comes before anything is there.
func TestSweepOfAnEmptyShare(t *testing.T) {
	if err := newWorld(t).sweep(t.Context()); err != nil {
		t.Error(err)
	}
}
