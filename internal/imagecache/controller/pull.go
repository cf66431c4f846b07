package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/imagecache/convert"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
)

// stalled is for how long a registry may send nothing in the middle of a layer.
const stalled = 2 * time.Minute

// layer makes a layer's file, unless it is there and the repository is known to
// have the layer. If it has to be fetched, f begins.
func (c *Controller) layer(ctx context.Context, from source, digest v1.Hash, diffID string, f *fetching) (v1beta1.CachedLayer, error) {
	if known, ok, err := c.shared(ctx, from, digest, diffID); ok || err != nil {
		return known, err
	}
	// Before the layer is taken: whoever has a layer never waits for a turn.
	if err := f.begin(ctx); err != nil {
		return v1beta1.CachedLayer{}, err
	}
	done, err := c.take(ctx, digest.String())
	if err != nil {
		return v1beta1.CachedLayer{}, err
	}
	defer done()
	// Another image may have needed it meanwhile.
	if known, ok, err := c.shared(ctx, from, digest, diffID); ok || err != nil {
		return known, err
	}
	made, err := c.fetch(ctx, from, digest, diffID)
	switch {
	case err == nil:
		c.noteSent(registry.Name(from.repository), made)
		c.metrics.layers.WithLabelValues("pulled").Inc()
	case errors.Is(err, errNotCacheable):
		c.metrics.layers.WithLabelValues("not-cacheable").Inc()
	case ctx.Err() == nil:
		c.metrics.layers.WithLabelValues("failed").Inc()
	}
	return made, err
}

// shared returns a layer that need not be fetched, if there is one.
func (c *Controller) shared(ctx context.Context, from source, digest v1.Hash, diffID string) (known v1beta1.CachedLayer, ok bool, err error) {
	vouched, err := c.vouchedFor(ctx, from, digest, diffID)
	if vouched == nil || err != nil {
		return known, false, err
	}
	ok, err = c.there([]v1beta1.CachedLayer{*vouched})
	if ok {
		c.metrics.layers.WithLabelValues("shared").Inc()
	}
	return *vouched, ok, err
}

// sent is a layer that a repository has sent.
type sent struct {
	repository string
	layer      v1beta1.CachedLayer
}

// allSent are those that have sent a layer, as CachedImages say, and of late:
// an image is written down when it has all of its layers.
func (c *Controller) allSent(ctx context.Context, digest, diffID string) ([]sent, error) {
	var images v1beta1.CachedImageList
	if err := c.cfg.Live.List(ctx, &images); err != nil {
		return nil, fmt.Errorf("listing CachedImages: %w", err)
	}
	var all []sent
	for _, image := range images.Items {
		for _, l := range image.Status.Layers {
			all = append(all, sent{image.Spec.Repository, l})
		}
	}
	c.mu.Lock()
	if recent, ok := c.sent.Get(digest); ok {
		some, _ := recent.([]sent)
		all = append(all, some...)
	}
	c.mu.Unlock()
	return slices.DeleteFunc(all, func(s sent) bool { return s.layer.Digest != digest || s.layer.DiffID != diffID }), nil
}

func (c *Controller) noteSent(repository string, l v1beta1.CachedLayer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	recent, _ := c.sent.Get(l.Digest)
	some, _ := recent.([]sent)
	c.sent.Add(l.Digest, append(slices.Clone(some), sent{repository, l}))
}

// vouchedFor returns what is known of a layer, if the repository is known to
// have it: it did before, or another one of the same registry did, and the
// registry says that this one has it too.
func (c *Controller) vouchedFor(ctx context.Context, from source, digest v1.Hash, diffID string) (*v1beta1.CachedLayer, error) {
	all, err := c.allSent(ctx, digest.String(), diffID)
	if err != nil {
		return nil, err
	}
	repository, host := registry.Name(from.repository), registry.Host(from.repository)
	var ofHost *v1beta1.CachedLayer
	for i := range all {
		if all[i].repository == repository {
			return &all[i].layer, nil
		}
		if strings.HasPrefix(all[i].repository, host+"/") {
			ofHost = &all[i].layer
		}
	}
	if ofHost == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookUp)
	defer cancel()
	has := false
	_, err = c.cfg.Places.Ask(ctx, from.repository.Digest(digest.String()), from.logins, func(at name.Reference, how ...remote.Option) error {
		layer, err := remote.Layer(at.Context().Digest(digest.String()), how...)
		if err != nil {
			return err
		}
		has, err = partial.Exists(layer)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking whether the repository has layer %s: %w", digest, err)
	}
	if !has {
		return nil, fmt.Errorf("the repository does not have layer %s", digest)
	}
	return ofHost, nil
}

// fetch pulls a layer and makes its file, by way of a file system in scratch.
func (c *Controller) fetch(ctx context.Context, from source, digest v1.Hash, diffID string) (v1beta1.CachedLayer, error) {
	scratch, err := os.CreateTemp(c.cfg.Scratch, "layer-")
	if err != nil {
		return v1beta1.CachedLayer{}, fmt.Errorf("making room for a layer: %w", err)
	}
	defer scratch.Close()
	if err := os.Remove(scratch.Name()); err != nil {
		return v1beta1.CachedLayer{}, fmt.Errorf("making room for a layer: %w", err)
	}
	var got convert.Result
	_, err = c.cfg.Places.AskForMuch(ctx, from.repository.Digest(digest.String()), from.logins, func(at name.Reference, how ...remote.Option) error {
		// The place before may have sent half of it.
		if err := scratch.Truncate(0); err != nil {
			return err
		}
		if _, err := scratch.Seek(0, io.SeekStart); err != nil {
			return err
		}
		var err error
		got, err = c.download(ctx, scratch, at.Context().Digest(digest.String()), how)
		return err
	})
	switch {
	case errors.Is(err, convert.ErrUnsupported):
		return v1beta1.CachedLayer{}, fmt.Errorf("%w: layer %s: %w", errNotCacheable, digest, err)
	case err != nil:
		return v1beta1.CachedLayer{}, fmt.Errorf("pulling layer %s: %w", digest, err)
	case got.Digest != digest.String():
		return v1beta1.CachedLayer{}, fmt.Errorf("pulling layer %s: what came is %s", digest, got.Digest)
	case got.DiffID != diffID:
		return v1beta1.CachedLayer{}, fmt.Errorf("%w: layer %s is %s when uncompressed, and not %s as the image says", errNotCacheable, digest, got.DiffID, diffID)
	}
	if _, err := scratch.Seek(0, io.SeekStart); err != nil {
		return v1beta1.CachedLayer{}, fmt.Errorf("reading a converted layer: %w", err)
	}
	var file store.Sealed
	if file, err = c.cfg.Share.Put(diffID, scratch); err != nil {
		return v1beta1.CachedLayer{}, fmt.Errorf("writing layer %s to the share: %w", digest, err)
	}
	return v1beta1.CachedLayer{
		Digest: digest.String(), DiffID: diffID, Path: file.Path, Size: file.Size, Root: file.Root.String(), LowestOnly: got.Implied != "",
	}, nil
}

// download converts a layer as it comes.
func (c *Controller) download(ctx context.Context, to *os.File, at name.Digest, how []remote.Option) (convert.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	layer, err := remote.Layer(at, append(how, remote.WithContext(ctx))...)
	if err != nil {
		return convert.Result{}, err
	}
	archive, err := layer.Compressed()
	if err != nil {
		return convert.Result{}, err
	}
	defer archive.Close()
	watched := &watched{from: archive, got: c.metrics.pulled.Add}
	watched.timer = time.AfterFunc(stalled, func() { cancel(fmt.Errorf("nothing came for %s", stalled)) })
	defer watched.timer.Stop()
	got, err := convert.Convert(ctx, to, watched, c.cfg.Scratch)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return got, cause
	}
	return got, err
}

// watched counts what comes, and puts a timer off while something does.
type watched struct {
	from  io.Reader
	got   func(float64)
	timer *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	if n > 0 {
		w.timer.Reset(stalled)
		w.got(float64(n))
	}
	return n, err
}
