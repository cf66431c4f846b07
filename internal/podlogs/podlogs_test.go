package podlogs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// log returns n stamped lines, a second apart, of the given width.
func log(n, width int) string {
	var b strings.Builder
	for i := range n {
		text := fmt.Sprintf("line %d", i)
		fmt.Fprintf(&b, "%s %s%s\n", start.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), text, strings.Repeat(".", max(0, width-len(text))))
	}
	return b.String()
}

func source(container, content string) Source {
	return Source{Container: container, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRead(t *testing.T) {
	s := newStore(t)
	previous := source("app", log(1, 0))
	previous.Previous = true
	if err := s.Keep(t.Context(), "u1", []Source{source("app", log(5, 0)), previous, source("quiet", "")}); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		reason    string
		container string
		query     string
		want      string
	}{
		"all":        {"without options the whole text", "app", "", "line 0\nline 1\nline 2\nline 3\nline 4\n"},
		"tail":       {"the last lines in order", "app", "tailLines=2", "line 3\nline 4\n"},
		"tail 0":     {"no line at all", "app", "tailLines=0", ""},
		"tail more":  {"more than there are", "app", "tailLines=9", "line 0\nline 1\nline 2\nline 3\nline 4\n"},
		"since":      {"a line at that very time is included", "app", "sinceTime=2026-05-04T10:00:03Z", "line 3\nline 4\n"},
		"seconds":    {"counted from now", "app", "sinceSeconds=7", "line 3\nline 4\n"},
		"stamps":     {"stamps as the kubelet prints them", "app", "tailLines=1&timestamps=true", "2026-05-04T10:00:04Z line 4\n"},
		"limit":      {"cut after so many bytes", "app", "limitBytes=10", "line 0\nlin"},
		"limit tail": {"both", "app", "limitBytes=3&tailLines=1", "lin"},
		"previous":   {"the run before", "app", "previous=true", "line 0\n"},
		"quiet":      {"a container that said nothing", "quiet", "", ""},
		"follow":     {"a kept log is complete", "app", "follow=true&tailLines=1", "line 4\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			q, err := url.ParseQuery(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			o, err := ParseOptions(q, start.Add(10*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := s.Read(&b, "u1", tc.container, o); err != nil {
				t.Fatal(err)
			}
			if b.String() != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, b.String(), tc.want)
			}
		})
	}
	for _, missing := range []string{"other", "../app", "..", "quiet.previous/../app"} {
		if err := s.Read(io.Discard, "u1", missing, Options{Tail: -1}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("container %q: %v", missing, err)
		}
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for _, q := range []string{"tailLines=x", "tailLines=-1", "limitBytes=0", "sinceTime=yesterday", "previous=maybe", "sinceSeconds=0", "sinceSeconds=1&sinceTime=2026-05-04T10:00:03Z"} {
		v, err := url.ParseQuery(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseOptions(v, start); err == nil {
			t.Errorf("%s: no error", q)
		}
	}
}

func TestTenMiBAreKeptWhole(t *testing.T) {
	s := newStore(t)
	content := log(MaxBytes/1024, 1023)
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

func TestOfALongerLogTheEndIsKept(t *testing.T) {
	s := newStore(t)
	const lines = 3 * MaxBytes / 1024
	if err := s.Keep(t.Context(), "u1", []Source{source("app", log(lines, 1023))}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Read(&b, "u1", "app", Options{Tail: -1}); err != nil {
		t.Fatal(err)
	}
	if b.Len() < MaxBytes || b.Len() > MaxBytes+2*chunkBytes {
		t.Errorf("%d bytes are kept", b.Len())
	}
	if !strings.Contains(b.String()[b.Len()-1024:], fmt.Sprintf("line %d.", lines-1)) {
		t.Error("the last line is missing")
	}
}

func TestKeepIsAllOrNothing(t *testing.T) {
	s := newStore(t)
	broken := Source{Container: "b", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader(log(3, 0)), errReader{})), nil
	}}
	if err := s.Keep(t.Context(), "u1", []Source{source("a", log(3, 0)), broken}); err == nil {
		t.Fatal("a broken source was kept")
	}
	if s.Has("u1") {
		t.Error("half a pod is kept")
	}
	if err := s.Keep(t.Context(), "u1", []Source{source("a", log(3, 0))}); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("u1"); err != nil || s.Has("u1") {
		t.Errorf("after Remove: %v, %v", err, s.Has("u1"))
	}
}

func TestInterruptedKeepIsCleared(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "u1"+partialSuffix)
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Error("an unfinished log stays")
	}
	if uids, err := s.UIDs(); err != nil || len(uids) != 0 {
		t.Errorf("UIDs = %v, %v", uids, err)
	}
	if err := s.Keep(t.Context(), "../x", nil); err == nil {
		t.Error("a UID that leaves the directory was taken")
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("connection lost") }
