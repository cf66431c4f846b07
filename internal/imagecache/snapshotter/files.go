package snapshotter

import (
	"fmt"
	"sync"

	"github.com/elotl/kip/v2/internal/imagecache/fuse"
	"github.com/elotl/kip/v2/internal/imagecache/source"
)

// Files are the layers that are served, by their snapshot's ID.
type Files struct {
	mu     sync.RWMutex
	layers map[uint64]*source.Layer
}

var _ fuse.Files = (*Files)(nil)

// NewFiles returns no files.
func NewFiles() *Files { return &Files{layers: map[uint64]*source.Layer{}} }

func (f *Files) get(id uint64) *source.Layer {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.layers[id]
}

func (f *Files) add(id uint64, l *source.Layer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.layers[id] = l
}

// remove ends the layer and forgets what was fetched for it.
func (f *Files) remove(id uint64) error {
	f.mu.Lock()
	l := f.layers[id]
	delete(f.layers, id)
	f.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.Close(false)
}

// Close ends all layers and keeps what was fetched, for the next process.
func (f *Files) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.layers {
		_ = l.Close(true) // files that were read
	}
}

// Size implements fuse.Files.
func (f *Files) Size(id uint64) (int64, bool) {
	l := f.get(id)
	if l == nil {
		return 0, false
	}
	return l.Size(), true
}

// ReadAt implements fuse.Files.
func (f *Files) ReadAt(id uint64, p []byte, off int64) (int, error) {
	l := f.get(id)
	if l == nil {
		return 0, fmt.Errorf("there is no layer %d", id)
	}
	return l.ReadAt(p, off)
}
