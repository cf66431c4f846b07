package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

const (
	// checkEvery is the least pause after a file was read whole.
	checkEvery = time.Minute
	// checkRate is how many bytes in a second are read to check them, on average.
	// File servers of clouds have a price for each byte that is read.
	checkRate = 100 << 10
)

// checkAlways reads the files of the cache whole, one after the other and from the
// beginning again, until ctx ends. Cells notice damage when they read it, and pull;
// this finds it before the next one does.
func (c *Controller) checkAlways(ctx context.Context) {
	last := ""
	for {
		checked, err := c.checkNext(ctx, last)
		if err != nil && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "checking the image cache", "err", err)
		}
		last = checked.Path
		pause := c.cfg.Clock.NewTimer(max(checkEvery, time.Duration(layer.FileSize(checked.Size)/checkRate)*time.Second))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C():
		}
	}
}

// checkNext reads the file that follows the last one, in the order of their paths.
// One that is not what it was is removed, and made anew when its image is looked
// at. Of an empty cache there is none.
func (c *Controller) checkNext(ctx context.Context, last string) (v1beta1.CachedLayer, error) {
	var images v1beta1.CachedImageList
	if err := c.cfg.Live.List(ctx, &images); err != nil {
		return v1beta1.CachedLayer{Path: last}, fmt.Errorf("listing CachedImages: %w", err)
	}
	var first, next v1beta1.CachedLayer
	for _, image := range images.Items {
		for _, l := range image.Status.Layers {
			if first.Path == "" || l.Path < first.Path {
				first = l
			}
			if l.Path > last && (next.Path == "" || l.Path < next.Path) {
				next = l
			}
		}
	}
	if next.Path == "" {
		next = first
	}
	if next.Path == "" {
		return next, nil
	}
	there, err := c.there([]v1beta1.CachedLayer{next})
	if err != nil || !there {
		// It is made anew by whoever looks at its image.
		return next, err
	}
	err = c.cfg.Share.Check(next.DiffID)
	if !errors.Is(err, layer.ErrCorrupt) {
		return next, err
	}
	c.metrics.removed.WithLabelValues("damaged").Inc()
	c.cfg.Logger.WarnContext(ctx, "a file of the image cache is not what it was; it is removed, and made anew", "path", next.Path, "layer", next.Digest)
	return next, c.cfg.Share.Remove(next.Path)
}
