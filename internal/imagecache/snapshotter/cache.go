package snapshotter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/source"
)

const (
	// mountPatience bounds the mount of a layer, which reads some blocks.
	mountPatience = 10 * time.Second
	// probe is how many bytes are read to see what the share does.
	probe = 4096
)

// fromCache makes the snapshot that will be called ref out of the cache's layer,
// and says whether it is there. Whatever is in its way is reported and makes it
// false: the layer is pulled then.
func (s *Snapshotter) fromCache(ctx context.Context, ref string, r *snapshots.PrepareSnapshotRequest) (bool, error) {
	q := grant.Question{Image: r.Labels[labelImage], Manifest: r.Labels[labelManifest]}
	if q.Image == "" || q.Manifest == "" || slices.Contains(s.cfg.Uncached, q.Image) {
		return false, nil
	}
	parent, ok := s.chain(r.Parent)
	if !ok {
		return false, nil
	}
	if s.have(ref, r.Parent) {
		return true, nil
	}
	granted, ok := s.granted(ctx, q, func(l layer.Layer) bool {
		return l.Digest == r.Labels[labelDigest] && chainID(parent, l.DiffID) == ref
	})
	if !ok {
		return false, nil
	}
	return s.mountCached(ctx, ref, r, cached{Of: q, Layer: granted})
}

// chain returns the name of the layers up to a committed snapshot.
func (s *Snapshotter) chain(key string) (string, bool) {
	if key == "" {
		return "", true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := s.store.keys[key]
	if sn == nil || sn.Kind != committed || sn.Labels[labelRef] == "" {
		return "", false
	}
	return sn.Labels[labelRef], true
}

// chainID is OCI's: the hash that names a stack of layers.
func chainID(parent, diffID string) string {
	if parent == "" {
		return diffID
	}
	sum := sha256.Sum256([]byte(parent + " " + diffID))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// have says whether the snapshot was made from the cache before: containerd may
// have died before it wrote that down.
func (s *Snapshotter) have(ref, parent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sn := range s.store.keys {
		if sn.Cached != nil && sn.Labels[labelRef] == ref && sn.Parent == parent {
			return true
		}
	}
	return false
}

// mountCached mounts the layer and writes the snapshot down.
func (s *Snapshotter) mountCached(ctx context.Context, ref string, r *snapshots.PrepareSnapshotRequest, c cached) (made bool, err error) {
	s.mu.Lock()
	id, err := s.store.newID()
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	l := s.cfg.Source.Layer(strconv.FormatUint(id, 10), c.Of, c.Layer)
	s.cfg.Files.add(id, l)
	defer func() {
		if !made {
			s.discard(s.store.path(id))
			err = errors.Join(err, s.cfg.Files.remove(id))
		}
	}()
	if err := os.Mkdir(s.store.fs(id), 0o755); err != nil {
		return false, fmt.Errorf("making a snapshot: %w", err)
	}
	if reason, err := s.tryMount(ctx, id, l); err != nil {
		if ctx.Err() == nil {
			s.without(c, reason, err)
		}
		return false, nil
	}
	// From here on whoever reads waits rather than fails.
	l.Need()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayCreate(r.Key, r.Parent); err != nil {
		return false, err
	}
	now := time.Now().UTC()
	sn := &snapshot{ID: id, Key: r.Key, Parent: r.Parent, Kind: committed, Labels: r.Labels, Created: now, Updated: now, Cached: &c}
	if err := s.store.put(sn, ""); err != nil {
		return false, err
	}
	s.cfg.Logger.Info("a layer is mounted from the cache", "image", c.Of.Image, "layer", c.Layer.Digest, "snapshot", ref, "bytes", c.Layer.Size)
	return true, nil
}

// tryMount mounts a layer if all that mounting reads is as it should be.
func (s *Snapshotter) tryMount(ctx context.Context, id uint64, l *source.Layer) (reason string, err error) {
	// What is the share's fault shows here, before another process is started.
	if _, err := l.ReadAt(make([]byte, min(probe, l.Size())), 0); err != nil {
		return l.Failure()
	}
	ctx, cancel := context.WithTimeout(ctx, mountPatience)
	defer cancel()
	if err := s.mount(ctx, id); err != nil {
		if reason, failure := l.Failure(); failure != nil {
			return reason, failure
		}
		return grant.Unusable, err
	}
	return "", nil
}

// without reports that a layer is pulled that the cache should have.
func (s *Snapshotter) without(c cached, reason string, err error) {
	s.cfg.Logger.Warn("a layer is pulled and not taken from the cache", "image", c.Of.Image, "layer", c.Layer.Digest, "reason", reason, "error", err)
	s.cfg.Report(grant.Report{Image: c.Of.Image, Reason: reason, Message: fmt.Sprintf("layer %s: %v", c.Layer.Digest, err)})
}
