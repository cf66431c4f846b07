package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/elotl/kip/v2/internal/imagecache/convert"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// The pauses between attempts to fetch a layer.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// errOther says that the registry's archive does not give the layer that was
// granted. Asking again would not help.
var errOther = errors.New("the registry's archive is not the layer that is in the cache")

// fetch makes the layer's file from the registry's archive, however often it
// has to try, until the layer is closed.
func (l *Layer) fetch() {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		started := time.Now()
		err := l.fetchOnce()
		if err == nil {
			close(l.fetched)
			l.source.cfg.Logger.Info("a layer was fetched from the registry in place of the cache", "image", l.of.Image,
				"layer", l.granted.Digest, "took", time.Since(started).Round(time.Millisecond).String())
			return
		}
		if l.ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.tell(grant.NotFetched, err)
		l.mu.Unlock()
		if errors.Is(err, errOther) {
			return
		}
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (l *Layer) fetchOnce() error {
	select {
	case l.source.building <- struct{}{}:
		defer func() { <-l.source.building }()
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
	archive, err := l.source.cfg.Fetch(l.ctx, l.of, l.granted)
	if err != nil {
		return fmt.Errorf("fetching the layer: %w", err)
	}
	defer archive.Close()
	file, err := os.CreateTemp(l.source.cfg.Dir, "fetching-")
	if err != nil {
		return fmt.Errorf("fetching the layer: %w", err)
	}
	// Without effect once it has its name.
	defer os.Remove(file.Name())
	if err := l.rebuild(l.ctx, file, archive); err != nil {
		return errors.Join(fmt.Errorf("fetching the layer: %w", err), file.Close())
	}
	if err := os.Rename(file.Name(), l.path()); err != nil {
		return errors.Join(fmt.Errorf("fetching the layer: %w", err), file.Close())
	}
	l.file = file
	return nil
}

// rebuild writes the layer's file system and makes sure that it is the granted
// one, to the last bit.
func (l *Layer) rebuild(ctx context.Context, file *os.File, archive io.Reader) error {
	result, err := convert.Convert(ctx, file, archive, l.source.cfg.Dir)
	if err != nil {
		return err
	}
	if result.Digest != l.granted.Digest || result.DiffID != l.granted.DiffID {
		return fmt.Errorf("%w: it has the digest %s", errOther, result.Digest)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	root, _, err := layer.Write(io.Discard, file, l.granted.Key)
	if err != nil {
		return err
	}
	if root != l.granted.Root {
		return fmt.Errorf("%w: converted it has the root %s", errOther, root)
	}
	return file.Sync()
}
