package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// Usual times of a Config.
const (
	// Patience is how long the share may take to answer. A warm one does in a
	// millisecond, and a cold one on disks in some tens.
	Patience = 2 * time.Second
	// Again is when a share that failed is asked again.
	Again = 2 * time.Second
	// GiveUp is when a read fails that neither the share nor the registry let
	// go on. Until then whoever reads waits, as for a disk.
	GiveUp = 10 * time.Minute
)

// askingAtOnce bounds the reads of the share that are under way, and with them
// the threads that hang when it does.
const askingAtOnce = 64

// errSlow is how a share fails that does not answer in time.
var errSlow = errors.New("no answer in time")

// File is a file of the share.
type File interface {
	io.ReaderAt
	io.Closer
}

// Config is what Layers need.
type Config struct {
	// Open opens a file of the share by its path. It may hang, and so may the
	// file's reads.
	Open func(path string) (File, error)
	// Fetch opens the archive of a layer at its image's registry.
	Fetch func(ctx context.Context, of grant.Question, l layer.Layer) (io.ReadCloser, error)
	// Report tells Kip that an image did without the cache, or a part of it. It
	// does not block.
	Report func(grant.Report)
	// Dir keeps layers that were fetched.
	Dir string

	Patience, Again, GiveUp time.Duration
	Logger                  *slog.Logger
}

// Source makes Layers.
type Source struct {
	cfg    Config
	asking chan struct{}
	// building: one layer is fetched at a time. There are few processors, and
	// the pod needs them.
	building chan struct{}
}

// New returns a Source and makes its directory.
func New(cfg Config) (*Source, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing for layers from the registry: %w", err)
	}
	return &Source{cfg: cfg, asking: make(chan struct{}, askingAtOnce), building: make(chan struct{}, 1)}, nil
}

// Directory opens files of a share that is mounted at dir. Nothing on it is
// believed: what is no plain file is not opened.
func Directory(dir string) func(path string) (File, error) {
	return func(path string) (File, error) {
		if !filepath.IsLocal(path) {
			return nil, fmt.Errorf("%q is no path of a share", path)
		}
		f, err := os.OpenFile(filepath.Join(dir, path), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return nil, errors.Join(fmt.Errorf("%s is no plain file", path), err, f.Close())
		}
		// EROFS reads ahead as far as the kernel thinks well of a process. What a
		// client for NFS read ahead besides would be fetched and never used. It is
		// advice: what does not take it works all the same.
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
		return f, nil
	}
}

// Layer is one layer that can be read. Its methods may be called from any
// goroutine.
type Layer struct {
	source *Source
	// of is whose layer it is; name distinguishes the file in Dir.
	of      grant.Question
	name    string
	granted layer.Layer

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	// fetched is closed when file can be read.
	fetched chan struct{}
	file    *os.File

	mu      sync.Mutex
	needed  bool
	corrupt bool
	// failure is the last one of a layer that nothing needs, and reason the
	// report's.
	failure error
	reason  string
	share   *shareFile
	told    map[string]bool
	// fetching is set when the registry was turned to.
	fetching bool
}

// shareFile is an open file of the share.
type shareFile struct {
	File
	*layer.Reader
}

// Layer returns a layer that nothing depends on yet. A file that was fetched
// under the same name is used again.
func (s *Source) Layer(name string, of grant.Question, granted layer.Layer) *Layer {
	l := &Layer{source: s, of: of, name: name, granted: granted, fetched: make(chan struct{}), told: map[string]bool{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if f, err := os.Open(l.path()); err == nil {
		l.file = f
		close(l.fetched)
	}
	return l
}

func (l *Layer) path() string { return filepath.Join(l.source.cfg.Dir, l.name+".erofs") }

// Size of the layer's file system in bytes.
func (l *Layer) Size() int64 { return l.granted.Size }

// Need says that a pod depends on the layer from now on.
func (l *Layer) Need() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.needed = true
}

// Failure is why a layer that nothing depends on could not be read, and nil if it
// could.
func (l *Layer) Failure() (reason string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason, l.failure
}

// Close ends reads that wait and forgets the layer, its fetched file included
// when it is not kept. Reads of a share that hangs end when the share lets them.
func (l *Layer) Close(keep bool) error {
	l.cancel()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	if !keep {
		if removed := os.Remove(l.path()); removed != nil && !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	if err != nil {
		return fmt.Errorf("closing a layer: %w", err)
	}
	return nil
}

// answer is the share's.
type answer struct {
	data []byte
	err  error
}

// ReadAt implements io.ReaderAt.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) {
	cfg := &l.source.cfg
	giveUp := time.NewTimer(cfg.GiveUp)
	defer giveUp.Stop()
	var failure error
	for {
		select {
		case <-l.fetched:
			return l.file.ReadAt(p, off)
		default:
		}
		answers := l.ask(len(p), off)
		slow := time.NewTimer(cfg.Patience)
		var again <-chan time.Time
		if answers == nil { // corrupt: the share is not asked again
			slow.Stop()
		}
	waiting:
		for {
			select {
			case a := <-answers:
				if a.err == nil || errors.Is(a.err, io.EOF) {
					slow.Stop()
					return copy(p, a.data), a.err
				}
				failure = a.err
				slow.Stop()
				if !l.failed(failure) {
					return 0, failure
				}
				answers, again = nil, time.After(cfg.Again)
			case <-slow.C:
				// Its answer may still come.
				failure = errSlow
				if !l.failed(failure) {
					return 0, failure
				}
			case <-again:
				break waiting
			case <-l.fetched:
				slow.Stop()
				break waiting
			case <-giveUp.C:
				slow.Stop()
				return 0, fmt.Errorf("neither the cache nor the registry has the layer: %w", failure)
			case <-l.ctx.Done():
				slow.Stop()
				return 0, fmt.Errorf("reading a layer: %w", l.ctx.Err())
			}
		}
	}
}

// ask reads from the share, for as long as that takes, and returns where the
// answer will be; nil if the share is not to be asked.
func (l *Layer) ask(length int, off int64) <-chan answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.corrupt {
		return nil
	}
	answers := make(chan answer, 1)
	// Its owner is the kernel, which decides when a read of a share ends; it is
	// counted in asking.
	go func() {
		select {
		case l.source.asking <- struct{}{}:
			defer func() { <-l.source.asking }()
		case <-l.ctx.Done():
			return
		}
		data := make([]byte, length)
		share, err := l.open()
		n := 0
		if err == nil {
			n, err = share.Reader.ReadAt(data, off)
		}
		answers <- answer{data[:n], err}
	}()
	return answers
}

// open returns the layer's file on the share.
func (l *Layer) open() (*shareFile, error) {
	l.mu.Lock()
	share := l.share
	l.mu.Unlock()
	if share != nil {
		return share, nil
	}
	// Not while holding the lock: it may hang.
	file, err := l.source.cfg.Open(l.granted.Path)
	if err != nil {
		return nil, err
	}
	reader, err := layer.Open(file, l.granted)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ctx.Err() != nil:
		return nil, errors.Join(l.ctx.Err(), file.Close())
	case l.share != nil: // another read was faster
		return l.share, file.Close()
	}
	l.share = &shareFile{file, reader}
	return l.share, nil
}

// failed notes that the share did not do what it should. It returns false where
// that is the end: nothing depends on the layer.
func (l *Layer) failed(err error) bool {
	reason := grant.Unreachable
	switch {
	case errors.Is(err, layer.ErrCorrupt):
		reason = grant.Corrupt
	case errors.Is(err, errSlow):
		reason = grant.Slow
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if reason != grant.Slow {
		// It is opened anew: the share may have been mounted again.
		l.drop()
	}
	l.corrupt = l.corrupt || reason == grant.Corrupt
	if !l.needed {
		l.failure, l.reason = err, reason
		return false
	}
	l.tell(reason, err)
	if !l.fetching && l.ctx.Err() == nil {
		l.fetching = true
		l.work.Go(l.fetch)
	}
	return true
}

// drop forgets the file on the share. Callers have the lock.
func (l *Layer) drop() {
	if l.share != nil {
		// What is still being read there keeps it; closing does not wait.
		_ = l.share.Close()
		l.share = nil
	}
}

// tell reports, once of each reason. Callers have the lock.
func (l *Layer) tell(reason string, err error) {
	if l.told[reason] {
		return
	}
	l.told[reason] = true
	l.source.cfg.Logger.Warn("a layer in use cannot be read from the cache as it should", "image", l.of.Image, "layer", l.granted.Digest, "reason", reason, "error", err)
	l.source.cfg.Report(grant.Report{Image: l.of.Image, Reason: reason, Message: fmt.Sprintf("layer %s: %v", l.granted.Digest, err)})
}
