package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

func newShare(t *testing.T) *Share {
	t.Helper()
	keys, err := NewKeys(bytes.Repeat([]byte{7}, MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	return open(t, t.TempDir(), keys)
}

func open(t *testing.T, dir string, keys *Keys) *Share {
	t.Helper()
	s, err := New(dir, keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func content(n int) []byte { return bytes.Repeat([]byte("content "), n) }

func put(t *testing.T, s *Share, diffID string, c []byte) Sealed {
	t.Helper()
	made, err := s.Put(diffID, bytes.NewReader(c))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func at(s *Share, file Sealed) string { return filepath.Join(s.root.Name(), file.Path) }

func TestPut(t *testing.T) {
	s := newShare(t)
	made := put(t, s, "sha256:a", content(10_000))
	found, ok, err := s.Find("sha256:a")
	if err != nil || !ok || found != made {
		t.Fatalf("found %+v, %t, error %v; made %+v", found, ok, err, made)
	}
	f, err := os.Open(at(s, made))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := layer.Open(f, layer.Layer{Size: made.Size, Root: made.Root, Key: s.keys.Key("sha256:a")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil || !bytes.Equal(got, content(10_000)) {
		t.Errorf("read %d bytes, error %v", len(got), err)
	}
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if err := s.Check("sha256:a"); err != nil {
		t.Error(err)
	}
	if strings.Contains(made.Path, "sha256") || s.keys.Path("sha256:b") == made.Path || s.keys.Key("sha256:b") == s.keys.Key("sha256:a") {
		t.Errorf("layers are told apart by %s", made.Path)
	}
}

// TestPutAgain: a file that is there may be open on any cell.
func TestPutAgain(t *testing.T) {
	s := newShare(t)
	made := put(t, s, "sha256:a", content(10))
	before, err := os.Stat(at(s, made))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Put("sha256:a", iotest.ErrReader(errors.New("read"))); err != nil || again != made {
		t.Errorf("got %+v, error %v", again, err)
	}
	if after, err := os.Stat(at(s, made)); err != nil || !os.SameFile(before, after) {
		t.Errorf("it is another file, error %v", err)
	}
}

func TestPutAtOnce(t *testing.T) {
	s := newShare(t)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			if _, err := s.Put("sha256:a", bytes.NewReader(content(100_000))); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	if err := s.Check("sha256:a"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.root.Name(), temporary)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

// TestForged: whoever is root on a cell may write to the share, and has had keys.
func TestForged(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		forge  func(t *testing.T, s *Share, file string)
	}{
		"Seal":  {"of somebody who does not have the key", func(t *testing.T, _ *Share, file string) { change(t, file, -1) }},
		"Root":  {"another one", func(t *testing.T, _ *Share, file string) { change(t, file, -40) }},
		"Cut":   {"a part of a file is none", func(t *testing.T, _ *Share, file string) { resize(t, file, -1) }},
		"Empty": {"nor is an empty one", func(t *testing.T, _ *Share, file string) { resize(t, file, -1<<30) }},
		"Longer": {"nor is a seal behind something else", func(t *testing.T, s *Share, file string) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append([]byte("x"), b...), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		"OtherLayer": {"a good file of another layer", func(t *testing.T, s *Share, file string) {
			if err := os.Rename(at(s, put(t, s, "sha256:b", content(20))), file); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShare(t)
			made := put(t, s, "sha256:a", content(10))
			tc.forge(t, s, at(s, made))
			if found, ok, err := s.Find("sha256:a"); ok || err != nil {
				t.Errorf("%s: found %+v, error %v", tc.reason, found, err)
			}
			// What cannot be believed is replaced.
			if again := put(t, s, "sha256:a", content(10)); again != made {
				t.Errorf("made %+v instead of %+v", again, made)
			}
			if err := s.Check("sha256:a"); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("Content", func(t *testing.T) {
		s := newShare(t)
		change(t, at(s, put(t, s, "sha256:a", content(10_000))), 5)
		if err := s.Check("sha256:a"); !errors.Is(err, layer.ErrCorrupt) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("OtherMaster", func(t *testing.T) {
		s := newShare(t)
		made := put(t, s, "sha256:a", content(10))
		keys, err := NewKeys(make([]byte, MasterSize))
		if err != nil {
			t.Fatal(err)
		}
		other := open(t, s.root.Name(), keys)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.root.Name(), keys.Path("sha256:a"))), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(at(s, made), filepath.Join(s.root.Name(), keys.Path("sha256:a"))); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := other.Find("sha256:a"); ok || err != nil {
			t.Errorf("found, error %v", err)
		}
	})
}

// change flips a bit; offsets below zero count from the end.
func change(t *testing.T, file string, offset int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if offset < 0 {
		offset += len(b)
	}
	b[offset] ^= 1
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func resize(t *testing.T, file string, by int64) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, max(0, info.Size()+by)); err != nil {
		t.Fatal(err)
	}
}

func TestListAndRemove(t *testing.T) {
	s := newShare(t)
	if files, err := s.List(); err != nil || len(files) > 0 {
		t.Errorf("an empty share has %v, error %v", files, err)
	}
	a, b := put(t, s, "sha256:a", content(10)), put(t, s, "sha256:b", content(20))
	files, err := s.List()
	if err != nil || len(files) != 2 {
		t.Fatalf("listed %v, error %v", files, err)
	}
	for _, f := range files {
		if f.Path == a.Path && f.Size != layer.FileSize(a.Size)+sealSize || f.Path != a.Path && f.Path != b.Path {
			t.Errorf("listed %+v", f)
		}
	}
	for range 2 {
		if err := s.Remove(a.Path); err != nil {
			t.Error(err)
		}
	}
	if _, ok, err := s.Find("sha256:a"); ok || err != nil {
		t.Errorf("it is still there, error %v", err)
	}
	for _, path := range []string{"", "v1/layers/../../etc/passwd", "v1/tmp/x", "v1/layers/x", "/v1/layers/00/x"} {
		if err := s.Remove(path); err == nil {
			t.Errorf("%q was removed", path)
		}
	}
}

func TestRemoveUnfinished(t *testing.T) {
	s := newShare(t)
	broken := errors.New("the registry went away")
	if _, err := s.Put("sha256:a", io.MultiReader(bytes.NewReader(content(10_000)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	dir := filepath.Join(s.root.Name(), temporary)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
	now := time.Now()
	for name, age := range map[string]time.Duration{"killed": 2 * time.Hour, "being-written": 0} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveUnfinished(now.Add(-time.Hour)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "being-written" {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

func TestNewKeys(t *testing.T) {
	if _, err := NewKeys([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}

// TestPlanted: what somebody put on the share leads nowhere else and holds
// nobody up.
func TestPlanted(t *testing.T) {
	s := newShare(t)
	outside := t.TempDir()
	if err := os.MkdirAll(filepath.Join(s.root.Name(), version), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(s.root.Name(), temporary)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put("sha256:a", bytes.NewReader(content(10))); err == nil {
		t.Error("a link was followed")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("written elsewhere: %v, error %v", left, err)
	}
	file := filepath.Join(s.root.Name(), s.keys.Path("sha256:a"))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Find("sha256:a"); ok || err == nil {
		t.Errorf("a pipe was taken for a file: %v", err)
	}
}
