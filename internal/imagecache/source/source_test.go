package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/imagecache/convert"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

var image = grant.Question{Image: "docker.io/library/app:1", Manifest: "sha256:1"}

// cached is a layer in all its forms.
type cached struct {
	archive []byte // as a registry has it
	system  []byte // the file system
	file    []byte // as a share has it
	layer   layer.Layer
}

// newCached makes a layer with a file of some blocks.
func newCached(t *testing.T) cached {
	t.Helper()
	content := make([]byte, 10*layer.BlockSize)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(content)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "data", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	f, err := os.Create(filepath.Join(scratch, "system"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	result, err := convert.Convert(t.Context(), f, bytes.NewReader(archive.Bytes()), scratch)
	if err != nil {
		t.Fatal(err)
	}
	system, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	key := layer.Key{7}
	var file bytes.Buffer
	root, size, err := layer.Write(&file, bytes.NewReader(system), key)
	if err != nil {
		t.Fatal(err)
	}
	return cached{archive.Bytes(), system, file.Bytes(), layer.Layer{
		Digest: result.Digest, DiffID: result.DiffID, Path: "v1/layers/aa/x", Size: size, Root: root, Key: key,
	}}
}

// share is a file of a share that does as it is told.
type share struct {
	data []byte

	mu   sync.Mutex
	read func(p []byte, off int64) (int, error)
}

func (s *share) behave(read func(p []byte, off int64) (int, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = read
}

func (s *share) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	read := s.read
	s.mu.Unlock()
	if read != nil {
		return read(p, off)
	}
	return bytes.NewReader(s.data).ReadAt(p, off)
}

func (*share) Close() error { return nil }

// world is a Source with a share and a registry.
type world struct {
	*Source
	cached
	share *share
	// opens is what opening the share's file does, if set.
	opens func() error
	// registry is what fetching does, if set.
	registry func(attempt int) (io.ReadCloser, error)
	fetched  atomic.Int32

	mu      sync.Mutex
	reports []string
}

func newWorld(t *testing.T, patience time.Duration) *world {
	t.Helper()
	w := &world{cached: newCached(t)}
	w.share = &share{data: w.file}
	var err error
	w.Source, err = New(Config{
		Open: func(path string) (File, error) {
			if path != w.layer.Path {
				t.Errorf("opens %s", path)
			}
			if w.opens != nil {
				if err := w.opens(); err != nil {
					return nil, err
				}
			}
			return w.share, nil
		},
		Fetch: func(_ context.Context, of grant.Question, l layer.Layer) (io.ReadCloser, error) {
			if of != image || l.Digest != w.layer.Digest {
				t.Errorf("fetches %s of %v", l.Digest, of)
			}
			if n := int(w.fetched.Add(1)); w.registry != nil {
				return w.registry(n)
			}
			return io.NopCloser(bytes.NewReader(w.archive)), nil
		},
		Report: func(r grant.Report) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.reports = append(w.reports, r.Reason)
		},
		Dir: filepath.Join(t.TempDir(), "fetched"), Patience: patience, Again: 10 * time.Millisecond, GiveUp: time.Minute,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) reported() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reports
}

func (w *world) open(t *testing.T) *Layer {
	t.Helper()
	l := w.Layer("5", image, w.layer)
	t.Cleanup(func() {
		if err := l.Close(false); err != nil {
			t.Error(err)
		}
	})
	return l
}

// readAll reads the layer whole, in pieces as the kernel does.
func readAll(l *Layer) ([]byte, error) {
	var all []byte
	piece := make([]byte, 8192)
	for off := int64(0); off < l.Size(); {
		n, err := l.ReadAt(piece, off)
		all, off = append(all, piece[:n]...), off+int64(n)
		if err != nil && !errors.Is(err, io.EOF) {
			return all, err
		}
	}
	return all, nil
}

// hang hangs until the test ends.
func hang(t *testing.T) func([]byte, int64) (int, error) {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return func([]byte, int64) (int, error) {
		<-end
		return 0, errors.New("ended")
	}
}

func TestReadsFromShare(t *testing.T) {
	w := newWorld(t, time.Minute)
	l := w.open(t)
	l.Need()
	got, err := readAll(l)
	if err != nil || !bytes.Equal(got, w.system) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(w.system), err)
	}
	if w.fetched.Load() != 0 || len(w.reported()) != 0 {
		t.Errorf("fetched %d times, reported %v", w.fetched.Load(), w.reported())
	}
}

// TestShareFails is what can happen to a share, before and after a pod depends
// on the layer: before it is an error that names it, after it the pod does not
// notice.
func TestShareFails(t *testing.T) {
	io5 := errors.New("input/output error")
	for name, tc := range map[string]struct {
		reason string
		fault  func(t *testing.T, w *world)
		// patience is long where the fault does not need it to be short.
		patience time.Duration
		before   error
		report   string
	}{
		"Unreachable": {
			reason: "the server went away and the soft mount gave up",
			fault: func(_ *testing.T, w *world) {
				w.share.behave(func([]byte, int64) (int, error) { return 0, io5 })
			},
			patience: time.Minute, before: io5, report: grant.Unreachable,
		},
		"Unmounted": {
			reason: "the file is not there any more, nor can it be opened again",
			fault: func(_ *testing.T, w *world) {
				w.opens = func() error { return os.ErrNotExist }
				w.share.behave(func([]byte, int64) (int, error) { return 0, os.ErrClosed })
			},
			patience: time.Minute, before: os.ErrNotExist, report: grant.Unreachable,
		},
		"Hangs": {
			reason:   "neither an answer nor an error",
			fault:    func(t *testing.T, w *world) { w.share.behave(hang(t)) },
			patience: 20 * time.Millisecond, before: errSlow, report: grant.Slow,
		},
		"Poisoned": {
			reason: "somebody with access to the share changed a byte of each block",
			fault: func(_ *testing.T, w *world) {
				w.share.behave(func(p []byte, off int64) (int, error) {
					n, err := bytes.NewReader(w.file).ReadAt(p, off)
					if n > 0 {
						p[n/2] ^= 1
					}
					return n, err
				})
			},
			patience: time.Minute, before: layer.ErrCorrupt, report: grant.Corrupt,
		},
		"Short": {
			reason: "the share is full and has half of the file",
			fault: func(_ *testing.T, w *world) {
				w.share.behave(func(p []byte, off int64) (int, error) {
					return bytes.NewReader(w.file[:len(w.file)/2]).ReadAt(p, off)
				})
			},
			patience: time.Minute, before: layer.ErrCorrupt, report: grant.Corrupt,
		},
	} {
		t.Run("Before/"+name, func(t *testing.T) {
			w := newWorld(t, tc.patience)
			tc.fault(t, w)
			l := w.open(t)
			if _, err := readAll(l); !errors.Is(err, tc.before) {
				t.Errorf("%s: %v, want %v", tc.reason, err, tc.before)
			}
			if reason, err := l.Failure(); reason != tc.report || !errors.Is(err, tc.before) {
				t.Errorf("%s: %s, %v", tc.reason, reason, err)
			}
			if w.fetched.Load() != 0 || len(w.reported()) != 0 {
				t.Errorf("%s: nothing depends on it, yet fetched %d times, reported %v", tc.reason, w.fetched.Load(), w.reported())
			}
		})
		t.Run("After/"+name, func(t *testing.T) {
			w := newWorld(t, tc.patience)
			l := w.open(t)
			l.Need()
			first := make([]byte, 4096)
			if _, err := l.ReadAt(first, 0); err != nil {
				t.Fatal(err)
			}
			tc.fault(t, w)
			var readers sync.WaitGroup
			for range 4 {
				readers.Go(func() {
					got, err := readAll(l)
					if err != nil || !bytes.Equal(got, w.system) {
						t.Errorf("%s: read %d bytes of %d: %v", tc.reason, len(got), len(w.system), err)
					}
				})
			}
			readers.Wait()
			if w.fetched.Load() != 1 {
				t.Errorf("%s: fetched %d times", tc.reason, w.fetched.Load())
			}
			if diff := cmp.Diff([]string{tc.report}, w.reported()); diff != "" {
				t.Errorf("%s: reports (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// A share that comes back is read again while the registry does not answer.
func TestShareComesBack(t *testing.T) {
	w := newWorld(t, time.Minute)
	w.registry = func(int) (io.ReadCloser, error) { return nil, errors.New("no route to host") }
	l := w.open(t)
	l.Need()
	var failures atomic.Int32
	w.share.behave(func(p []byte, off int64) (int, error) {
		if failures.Add(1) <= 3 {
			return 0, errors.New("stale file handle")
		}
		return bytes.NewReader(w.file).ReadAt(p, off)
	})
	if got, err := readAll(l); err != nil || !bytes.Equal(got, w.system) {
		t.Errorf("read %d bytes of %d: %v", len(got), len(w.system), err)
	}
}

// The registry is asked again, until it has what was granted; what is something
// else is never used.
func TestRegistryFails(t *testing.T) {
	corrupt := func(w *world) {
		w.share.behave(func(p []byte, off int64) (int, error) {
			clear(p)
			return len(p), nil
		})
	}
	t.Run("Once", func(t *testing.T) {
		w := newWorld(t, time.Minute)
		w.registry = func(attempt int) (io.ReadCloser, error) {
			if attempt == 1 {
				return io.NopCloser(io.MultiReader(bytes.NewReader(w.archive[:3000]), iotestErr{})), nil
			}
			return io.NopCloser(bytes.NewReader(w.archive)), nil
		}
		corrupt(w)
		l := w.open(t)
		l.Need()
		if got, err := readAll(l); err != nil || !bytes.Equal(got, w.system) {
			t.Errorf("read %d bytes of %d: %v", len(got), len(w.system), err)
		}
		if diff := cmp.Diff([]string{grant.Corrupt, grant.NotFetched}, w.reported()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
	t.Run("OtherArchive", func(t *testing.T) {
		w := newWorld(t, time.Minute)
		w.cfg.GiveUp = 300 * time.Millisecond
		var empty bytes.Buffer
		_ = tar.NewWriter(&empty).Close()
		w.registry = func(int) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty.Bytes())), nil }
		corrupt(w)
		l := w.open(t)
		l.Need()
		if _, err := l.ReadAt(make([]byte, 10), 0); !errors.Is(err, layer.ErrCorrupt) {
			t.Errorf("%v, want the share's %v", err, layer.ErrCorrupt)
		}
		if n := w.fetched.Load(); n != 1 {
			t.Errorf("fetched %d times what does not help", n)
		}
	})
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// A process that serves the layer after this one finds what was fetched.
func TestFetchedFileIsKept(t *testing.T) {
	w := newWorld(t, time.Minute)
	w.opens = func() error { return os.ErrNotExist }
	l := w.Layer("5", image, w.layer)
	l.Need()
	if _, err := readAll(l); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(true); err != nil {
		t.Fatal(err)
	}
	again := w.Layer("5", image, w.layer)
	if got, err := readAll(again); err != nil || !bytes.Equal(got, w.system) {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	if w.fetched.Load() != 1 {
		t.Errorf("fetched %d times", w.fetched.Load())
	}
	if err := again.Close(false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(w.cfg.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Closing ends reads that wait.
func TestCloseEndsReads(t *testing.T) {
	w := newWorld(t, time.Minute)
	asked := make(chan struct{}, 10)
	hangs := hang(t)
	w.share.behave(func(p []byte, off int64) (int, error) {
		asked <- struct{}{}
		return hangs(p, off)
	})
	l := w.Layer("5", image, w.layer)
	l.Need()
	read := make(chan error)
	go func() {
		_, err := l.ReadAt(make([]byte, 10), 0)
		read <- err
	}()
	<-asked
	if err := l.Close(false); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}

func TestDirectoryRefuses(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := Directory(dir)
	for path, reason := range map[string]string{
		"link": "what a link leads to is not the share's", ".": "a directory is no file",
		"../" + filepath.Base(filepath.Dir(secret)) + "/secret": "a path that leaves the share", secret: "an absolute path",
	} {
		if f, err := open(path); err == nil {
			t.Errorf("%s was opened: %s", path, reason)
			f.Close()
		}
	}
	f, err := open("file")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(fmt.Errorf("closing: %w", err))
	}
}
