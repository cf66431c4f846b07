package store

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// The share's directories.
const (
	version   = "v1"
	layers    = version + "/layers"
	temporary = version + "/tmp"
)

// sealSize: size, root, and their authentication.
const sealSize = 8 + 32 + 32

// Share is the directory where the share is mounted. Links that somebody put
// there lead nowhere but into it.
type Share struct {
	root *os.Root
	keys *Keys
}

// New opens the share at dir.
func New(dir string, keys *Keys) (*Share, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the share: %w", err)
	}
	return &Share{root: root, keys: keys}, nil
}

// Close closes the share.
func (s *Share) Close() error { return s.root.Close() }

// open opens a file for reading. It does not wait for a writer if that is a
// pipe, and takes nothing but files.
func (s *Share) open(file string) (*os.File, fs.FileInfo, error) {
	f, err := s.root.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", file)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// Sealed is a layer's file as its seal says.
type Sealed struct {
	Path string
	Size int64
	Root layer.Sum
}

// Find returns a layer's file, false if there is none that can be believed. It
// does not look at the content: whoever reads that checks it.
func (s *Share) Find(diffID string) (Sealed, bool, error) {
	at := s.keys.Path(diffID)
	f, info, err := s.open(at)
	if errors.Is(err, fs.ErrNotExist) {
		return Sealed{}, false, nil
	}
	if err != nil {
		return Sealed{}, false, fmt.Errorf("looking for a layer's file: %w", err)
	}
	defer f.Close()
	if info.Size() < sealSize {
		return Sealed{}, false, nil
	}
	seal := make([]byte, sealSize)
	if _, err := f.ReadAt(seal, info.Size()-sealSize); err != nil {
		return Sealed{}, false, fmt.Errorf("reading a layer's seal: %w", err)
	}
	found := Sealed{Path: at, Size: int64(binary.BigEndian.Uint64(seal)), Root: layer.Sum(seal[8:40])}
	if !hmac.Equal(seal, s.seal(diffID, found)) || layer.FileSize(found.Size)+sealSize != info.Size() {
		return Sealed{}, false, nil
	}
	return found, true, nil
}

// Check reads all of a layer's file and tells whether it is what its seal says.
func (s *Share) Check(diffID string) error {
	found, ok, err := s.Find(diffID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("a layer's file: %w", layer.ErrCorrupt)
	}
	f, _, err := s.open(found.Path)
	if err != nil {
		return fmt.Errorf("checking a layer's file: %w", err)
	}
	defer f.Close()
	r, err := layer.Open(f, layer.Layer{Size: found.Size, Root: found.Root, Key: s.keys.Key(diffID)})
	if err != nil {
		return fmt.Errorf("checking a layer's file: %w", err)
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, r.Size())); err != nil {
		return fmt.Errorf("checking a layer's file: %w", err)
	}
	return nil
}

// Put makes a layer's file of a file system. It may be repeated, and by several
// at once: the content is the same, and a file that is there is left alone, as
// somebody may be reading it.
func (s *Share) Put(diffID string, content io.Reader) (Sealed, error) {
	if found, ok, err := s.Find(diffID); err != nil || ok {
		return found, err
	}
	made := Sealed{Path: s.keys.Path(diffID)}
	for _, dir := range []string{path.Dir(made.Path), temporary} {
		if err := s.root.MkdirAll(dir, 0o755); err != nil {
			return Sealed{}, fmt.Errorf("making room for a layer's file: %w", err)
		}
	}
	unfinished := temporary + "/" + rand.Text()
	// Cells read it, as whoever they are to the server.
	f, err := s.root.OpenFile(unfinished, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Sealed{}, fmt.Errorf("making a layer's file: %w", err)
	}
	defer func() { _ = s.root.Remove(unfinished) }() // when it has its name there is nothing to remove
	defer f.Close()
	if made.Root, made.Size, err = layer.Write(f, content, s.keys.Key(diffID)); err != nil {
		return Sealed{}, err
	}
	if _, err := f.Write(s.seal(diffID, made)); err != nil {
		return Sealed{}, fmt.Errorf("sealing a layer's file: %w", err)
	}
	// Also where the share is full is often said only now.
	if err := f.Sync(); err != nil {
		return Sealed{}, fmt.Errorf("writing a layer's file: %w", err)
	}
	if err := f.Close(); err != nil {
		return Sealed{}, fmt.Errorf("writing a layer's file: %w", err)
	}
	if err := s.root.Rename(unfinished, made.Path); err != nil {
		return Sealed{}, fmt.Errorf("naming a layer's file: %w", err)
	}
	return made, nil
}

func (s *Share) seal(diffID string, file Sealed) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(file.Size))
	b = append(b, file.Root[:]...)
	mac := hmac.New(sha256.New, s.keys.sealing(diffID))
	mac.Write(b)
	return mac.Sum(b)
}

// Remove removes a file by its path. That it is not there is no error.
func (s *Share) Remove(file string) error {
	if path.Dir(path.Dir(file)) != layers {
		return fmt.Errorf("%q is not the path of a layer's file", file)
	}
	if err := s.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a layer's file: %w", err)
	}
	return nil
}

// File is one that is on the share.
type File struct {
	Path string
	Size int64
}

// List returns what is there under layers' names, whether or not it can be
// believed.
func (s *Share) List() ([]File, error) {
	var files []File
	err := s.walk(layers, func(name string, info fs.FileInfo) error {
		files = append(files, File{name, info.Size()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the share: %w", err)
	}
	return files, nil
}

// RemoveUnfinished removes files that nobody has written to since before. There
// are some after a writer was killed.
func (s *Share) RemoveUnfinished(before time.Time) error {
	err := s.walk(temporary, func(name string, info fs.FileInfo) error {
		if !info.ModTime().Before(before) {
			return nil
		}
		return s.root.Remove(name)
	})
	if err != nil {
		return fmt.Errorf("removing unfinished files from the share: %w", err)
	}
	return nil
}

// walk visits the files beneath a directory of the share. What goes meanwhile
// is passed over.
func (s *Share) walk(dir string, visit func(name string, info fs.FileInfo) error) error {
	return fs.WalkDir(s.root.FS(), dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				err = visit(name, info)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}
