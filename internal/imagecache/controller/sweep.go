package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

const (
	// sweepEvery is how often the cache is brought within its bounds.
	sweepEvery = 10 * time.Minute
	// leftFor is for how long a file stays that no CachedImage names: one that
	// is being made is not named yet, and a cell may have been told of it a
	// moment ago.
	leftFor = time.Hour
	// inUse is since when an image that was used is one that is being used. Two
	// looks at its pod are in it.
	inUse = 2*lookAgain + lookAgain/2
)

// sweepAlways keeps the cache within its bounds until ctx ends.
func (c *Controller) sweepAlways(ctx context.Context) {
	ticker := c.cfg.Clock.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := c.sweep(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.WarnContext(ctx, "sweeping the image cache", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// sweep removes images that are too old or too many, and then files that no
// image has. An image's CachedImage goes first, so that no cell is told any more
// of what is about to go.
func (c *Controller) sweep(ctx context.Context) error {
	var list v1beta1.CachedImageList
	if err := c.cfg.Live.List(ctx, &list); err != nil {
		return fmt.Errorf("listing CachedImages: %w", err)
	}
	images, err := c.removeUnused(ctx, list.Items)
	if err != nil {
		return err
	}
	files, err := c.cfg.Share.List()
	if err != nil {
		return err
	}
	size := map[string]int64{}
	var total int64
	for _, f := range files {
		size[f.Path] = f.Size
		total += f.Size
	}
	if images, err = c.removeMost(ctx, images, size); err != nil {
		return err
	}
	named := map[string]bool{}
	for _, image := range images {
		for _, l := range image.Status.Layers {
			named[l.Path] = true
		}
	}
	now := c.cfg.Clock.Now()
	for path := range c.unreferenced {
		if _, there := size[path]; named[path] || !there {
			delete(c.unreferenced, path)
		}
	}
	for _, f := range files {
		if named[f.Path] {
			continue
		}
		since, seen := c.unreferenced[f.Path]
		if !seen {
			c.unreferenced[f.Path] = now
		}
		if !seen || now.Sub(since) < leftFor {
			continue
		}
		if err := c.cfg.Share.Remove(f.Path); err != nil {
			return err
		}
		delete(c.unreferenced, f.Path)
		total -= f.Size
		c.metrics.removed.WithLabelValues("unreferenced").Inc()
	}
	c.metrics.images.Set(float64(len(images)))
	c.metrics.bytes.Set(float64(total))
	return c.cfg.Share.RemoveUnfinished(now.Add(-leftFor))
}

// lastUse of an image. One that was never used is as old as its object.
func lastUse(image *v1beta1.CachedImage) time.Time {
	if used := image.Status.LastUsed; used != nil {
		return used.Time
	}
	return image.CreationTimestamp.Time
}

// removeUnused removes images that no pod has had for too long, and returns the
// others, those first that were used the longest ago.
func (c *Controller) removeUnused(ctx context.Context, images []v1beta1.CachedImage) ([]v1beta1.CachedImage, error) {
	slices.SortFunc(images, func(a, b v1beta1.CachedImage) int { return lastUse(&a).Compare(lastUse(&b)) })
	for len(images) > 0 && c.cfg.Clock.Now().Sub(lastUse(&images[0])) > max(c.cfg.Unused, inUse) {
		if err := c.remove(ctx, &images[0], "unused"); err != nil {
			return nil, err
		}
		images = images[1:]
	}
	return images, nil
}

// removeMost removes images until what the others have on the share is not too
// large. Those that are in use stay, come what may.
func (c *Controller) removeMost(ctx context.Context, images []v1beta1.CachedImage, size map[string]int64) ([]v1beta1.CachedImage, error) {
	if c.cfg.MaxBytes == 0 {
		return images, nil
	}
	users := map[string]int{}
	var total int64
	for _, image := range images {
		for path := range paths(&image) {
			if users[path]++; users[path] == 1 {
				total += size[path]
			}
		}
	}
	for total > c.cfg.MaxBytes && len(images) > 0 && c.cfg.Clock.Now().Sub(lastUse(&images[0])) > inUse {
		if err := c.remove(ctx, &images[0], "size"); err != nil {
			return nil, err
		}
		for path := range paths(&images[0]) {
			if users[path]--; users[path] == 0 {
				total -= size[path]
			}
		}
		images = images[1:]
	}
	return images, nil
}

// paths of an image's files, each once.
func paths(image *v1beta1.CachedImage) map[string]struct{} {
	all := map[string]struct{}{}
	for _, l := range image.Status.Layers {
		all[l.Path] = struct{}{}
	}
	return all
}

// remove removes an image, but not one that was used since it was looked at.
func (c *Controller) remove(ctx context.Context, image *v1beta1.CachedImage, reason string) error {
	version := image.ResourceVersion
	err := c.cfg.Client.Delete(ctx, image, client.Preconditions{UID: &image.UID, ResourceVersion: &version})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing CachedImage %s: %w", image.Name, err)
	}
	c.metrics.removed.WithLabelValues(reason).Inc()
	c.cfg.Logger.InfoContext(ctx, "image removed from the cache", "image", image.Spec.Repository+"@"+image.Spec.Digest, "reason", reason)
	return nil
}
