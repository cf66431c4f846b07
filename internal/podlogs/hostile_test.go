package podlogs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestNoLogIsNoFailure: what does not exist is left out, and the rest is kept.
func TestNoLogIsNoFailure(t *testing.T) {
	s := newStore(t)
	none := Source{Container: "app", Previous: true, Open: func(context.Context) (io.ReadCloser, error) {
		return nil, errors.Join(ErrNoLog, errors.New("why"))
	}}
	if err := s.Keep(t.Context(), "u1", []Source{none, source("app", log(1, 0))}); err != nil {
		t.Fatal(err)
	}
	if err := s.Read(io.Discard, "u1", "app", Options{Previous: true, Tail: -1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the previous run: %v", err)
	}
	if err := s.Read(io.Discard, "u1", "app", Options{Tail: -1}); err != nil {
		t.Error(err)
	}
}

// TestContainerNamesLeadNowhere: they come from a cell.
func TestContainerNamesLeadNowhere(t *testing.T) {
	dir := t.TempDir()
	s, err := NewStore(filepath.Join(dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../../escaped", "..", ".", "", "a/b", "/etc"} {
		if err := s.Keep(t.Context(), "u1", []Source{source(name, log(1, 0))}); err == nil {
			t.Errorf("container %q was kept", name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || s.Has("u1") {
		t.Errorf("%v, %v", entries, err)
	}
}

// TestALineWithoutEnd: how long a line is, is the pod's decision, and must not
// be Kip's memory.
func TestALineWithoutEnd(t *testing.T) {
	s := newStore(t)
	const size = 16 << 20
	line := io.LimitReader(endless{}, size)
	src := Source{Container: "app", Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(line), nil }}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := s.Keep(t.Context(), "u1", []Source{src}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 3*size/2 {
		t.Errorf("%d MiB were allocated for a line of %d MiB", used>>20, size>>20)
	}
	var b bytes.Buffer
	if err := s.Read(&b, "u1", "app", Options{Tail: -1}); err != nil {
		t.Fatal(err)
	}
	if b.Len() < MaxBytes || b.Len() > MaxBytes+4*chunkBytes || strings.Trim(b.String(), "x") != "" {
		t.Errorf("%d bytes are kept", b.Len())
	}
}

// TestALongLineIsWhole: as long as it is not longer than a pod may keep.
func TestALongLineIsWhole(t *testing.T) {
	s := newStore(t)
	content := log(1, 3<<20) + log(2, 10)
	if err := s.Keep(t.Context(), "u1", []Source{source("app", content)}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Read(&b, "u1", "app", Options{Tail: -1, Timestamps: true}); err != nil {
		t.Fatal(err)
	}
	if b.String() != content {
		t.Errorf("%d bytes of %d came back", b.Len(), len(content))
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
