// Package podlogs keeps the logs of pods that ended, so that their instances
// can be terminated at once while kubectl logs goes on working until the pod
// object is deleted.
//
// A Store is a directory: one folder a pod UID, in it one folder a container
// (and one for its previous run where there was one) with gzip files of about
// a MiB of text each. A pod's folder becomes visible by a rename, complete, so
// a Kip that dies while it keeps logs leaves nothing half kept behind.
package podlogs

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// MaxBytes is how much text is kept per container; of a longer log the
	// end is kept.
	MaxBytes = 10 << 20

	chunkBytes     = 1 << 20
	partialSuffix  = ".partial"
	previousSuffix = ".previous"
)

// Store keeps logs below one directory. It is safe for concurrent use.
type Store struct {
	dir string
}

// NewStore makes the directory if need be and removes what an interrupted Keep
// left behind.
func NewStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the log directory: %w", err)
	}
	partial, err := filepath.Glob(filepath.Join(dir, "*"+partialSuffix))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	for _, p := range partial {
		if err := os.RemoveAll(p); err != nil {
			return nil, fmt.Errorf("removing an unfinished log: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// ErrNoLog is what a Source's Open returns when there is no such log. The
// others are kept without it.
var ErrNoLog = errors.New("there is no such log")

// Source is one log to keep. Open returns its lines, each led by an RFC 3339
// time stamp and a space, as a kubelet prints them with timestamps=true.
type Source struct {
	Container string
	Previous  bool
	Open      func(context.Context) (io.ReadCloser, error)
}

// Keep stores all of a pod's logs, or none. Keeping a pod that is kept already
// does nothing. It blocks for as long as the sources take.
func (s *Store) Keep(ctx context.Context, uid types.UID, sources []Source) error {
	if s.Has(uid) {
		return nil
	}
	final, err := s.path(uid)
	if err != nil {
		return err
	}
	partial := final + partialSuffix
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("clearing %s: %w", partial, err)
	}
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return fmt.Errorf("keeping logs: %w", err)
	}
	for _, src := range sources {
		name := folder(src.Container, src.Previous)
		if !isFolder(name) {
			return errors.Join(fmt.Errorf("%q is not a container's name", src.Container), os.RemoveAll(partial))
		}
		if err := keepOne(ctx, filepath.Join(partial, name), src); err != nil {
			return errors.Join(fmt.Errorf("keeping the log of container %s: %w", src.Container, err), os.RemoveAll(partial))
		}
	}
	if err := os.Rename(partial, final); err != nil {
		return fmt.Errorf("keeping logs: %w", err)
	}
	return nil
}

// Has says whether the pod's logs are kept.
func (s *Store) Has(uid types.UID) bool {
	path, err := s.path(uid)
	if err != nil {
		return false
	}
	_, err = os.Stat(path)
	return err == nil
}

// Remove forgets a pod's logs; that none are kept is no error.
func (s *Store) Remove(uid types.UID) error {
	path, err := s.path(uid)
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// UIDs are the pods whose logs are kept.
func (s *Store) UIDs() ([]types.UID, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("listing kept logs: %w", err)
	}
	var uids []types.UID
	for _, e := range entries {
		if e.IsDir() && !strings.HasSuffix(e.Name(), partialSuffix) {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, nil
}

func (s *Store) path(uid types.UID) (string, error) {
	name := string(uid)
	if !isFolder(name) {
		return "", fmt.Errorf("%q is not a pod UID", name)
	}
	return filepath.Join(s.dir, name), nil
}

// isFolder says whether name is that of a folder and leads nowhere else.
func isFolder(name string) bool {
	return name != "" && name == filepath.Base(name) && !strings.HasPrefix(name, ".")
}

func folder(container string, previous bool) string {
	if previous {
		return container + previousSuffix
	}
	return container
}

// keepOne writes a log as numbered gzip files and deletes the oldest of them
// whenever more than MaxBytes are kept.
func keepOne(ctx context.Context, dir string, src Source) error {
	in, err := src.Open(ctx)
	if errors.Is(err, ErrNoLog) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}

	lines := bufio.NewReaderSize(in, 64<<10)
	var sizes []int
	kept := 0
	for n := 0; ; n++ {
		size, readErr := writeChunk(chunkPath(dir, n), lines)
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			return readErr
		}
		sizes = append(sizes, size)
		kept += size
		// Drop a chunk only while what stays is still MaxBytes or more.
		for first := len(sizes); first > 0 && kept-sizes[0] >= MaxBytes; first-- {
			if err := os.Remove(chunkPath(dir, n+1-len(sizes))); err != nil {
				return err
			}
			kept -= sizes[0]
			sizes = sizes[1:]
		}
		if readErr != nil {
			return nil
		}
	}
}

// writeChunk copies whole lines until about chunkBytes are written and returns
// how many bytes of text, time stamps not counted, that were. Only a line that
// is longer than that is cut. The error is io.EOF at the end of the log.
func writeChunk(path string, lines *bufio.Reader) (size int, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z := gzip.NewWriter(f)
	defer func() {
		if closeErr := z.Close(); closeErr != nil {
			err = errors.Join(err, closeErr)
		}
	}()
	for begin := true; size < chunkBytes || !begin && size < 2*chunkBytes; {
		// A piece of a line: what writes the log decides how long a line is.
		piece, readErr := lines.ReadSlice('\n')
		if _, err := z.Write(piece); err != nil {
			return size, err
		}
		if begin {
			_, piece = cutStamp(piece)
		}
		size += len(piece)
		begin = readErr == nil
		if readErr != nil && !errors.Is(readErr, bufio.ErrBufferFull) {
			return size, readErr
		}
	}
	return size, nil
}

func chunkPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%06d.gz", n)) }

// chunks are a kept log's files in order. The error is fs.ErrNotExist when
// that log is not kept.
func (s *Store) chunks(uid types.UID, container string, previous bool) ([]string, error) {
	dir, err := s.path(uid)
	if err != nil {
		return nil, err
	}
	name := folder(container, previous)
	if !isFolder(name) {
		return nil, fs.ErrNotExist
	}
	entries, err := os.ReadDir(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(entries))
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, name, e.Name()))
	}
	sort.Strings(paths)
	return paths, nil
}
