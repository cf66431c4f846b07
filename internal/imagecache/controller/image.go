package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/registry"
)

// errNotCacheable says that an image will not get into the cache, however often
// it is tried.
var errNotCacheable = errors.New("it cannot be in the image cache")

// source is a repository, and as whom it is asked.
type source struct {
	repository name.Repository
	logins     []authn.AuthConfig
}

// manifest is an image for one platform.
type manifest struct {
	digest, architecture string
}

// lookUp bounds what is small: manifests, configurations.
const lookUp = 30 * time.Second

// resolve returns the images that a reference means, one for each architecture
// that it has of those wanted. The registry is asked each time, as a tag may be
// another image's meanwhile, but only for a digest: registries that count pulls
// do not count that.
func (c *Controller) resolve(ctx context.Context, ref name.Reference, logins []authn.AuthConfig) ([]manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, lookUp)
	defer cancel()
	var found []manifest
	_, err := c.cfg.Places.Ask(ctx, ref, logins, func(at name.Reference, how ...remote.Option) error {
		head, err := remote.Head(at, how...)
		if err != nil {
			return err
		}
		key := registry.Name(ref.Context()) + "@" + head.Digest.String()
		c.mu.Lock()
		known, ok := c.known.Get(key)
		c.mu.Unlock()
		if ok {
			found, _ = known.([]manifest)
			return nil
		}
		if found, err = c.inside(at.Context().Digest(head.Digest.String()), how); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known.Add(key, found)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking the image up: %w", err)
	}
	return found, nil
}

// inside returns what there is for the wanted architectures in an index, or in
// an image, which is one itself.
func (c *Controller) inside(at name.Digest, how []remote.Option) ([]manifest, error) {
	got, err := remote.Get(at, how...)
	if err != nil {
		return nil, err
	}
	var found []manifest
	add := func(digest, os, architecture string) {
		if os == "linux" && slices.Contains(c.cfg.Architectures, architecture) {
			found = append(found, manifest{digest, architecture})
		}
	}
	if !got.MediaType.IsIndex() {
		image, err := got.Image()
		if err != nil {
			return nil, err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		add(got.Digest.String(), config.OS, config.Architecture)
		return found, nil
	}
	index, err := got.ImageIndex()
	if err != nil {
		return nil, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range list.Manifests {
		if m.Platform != nil && m.MediaType.IsImage() {
			add(m.Digest.String(), m.Platform.OS, m.Platform.Architecture)
		}
	}
	return found, nil
}

// errBeingMade says that an image is being made already, for another pod. Nobody
// waits for that: there may be more of its pods than workers.
var errBeingMade = errors.New("the image is being made")

// one sees to one image.
func (c *Controller) one(ctx context.Context, from source, m manifest) error {
	repository := registry.Name(from.repository)
	object := v1beta1.CachedImageName(repository, m.digest)
	done, _ := c.tryTake(object)
	if done == nil {
		return errBeingMade
	}
	defer done()

	image := &v1beta1.CachedImage{}
	err := c.cfg.Live.Get(ctx, client.ObjectKey{Name: object}, image)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading CachedImage %s: %w", object, err)
	}
	ready := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionReady)
	switch {
	case ready == nil:
	case ready.Reason == v1beta1.ReasonNotCacheable:
		return errors.Join(c.noteUse(ctx, image), fmt.Errorf("%w: %s", errNotCacheable, ready.Message))
	case ready.Status == metav1.ConditionTrue:
		there, err := c.there(image.Status.Layers)
		if err != nil {
			return err
		}
		if there {
			return c.noteUse(ctx, image)
		}
	}
	if err := c.rest(object); err != nil {
		return err
	}
	image.Name = object
	image.Spec = v1beta1.CachedImageSpec{Repository: repository, Digest: m.digest, Architecture: m.architecture}
	f := &fetching{controller: c, image: image}
	defer f.end()
	layers, err := c.pull(ctx, from, m, f)
	switch {
	case err == nil:
		return c.write(ctx, image, layers, readyCondition(metav1.ConditionTrue, v1beta1.ReasonCached, "Cells mount it."), nil)
	case errors.Is(err, errNotCacheable):
		return errors.Join(err, c.write(ctx, image, nil, readyCondition(metav1.ConditionFalse, v1beta1.ReasonNotCacheable, err.Error()), nil))
	case ctx.Err() != nil:
		// Whoever comes next goes on; cells wait for it a while.
		return err
	}
	c.noteFailure(object, err)
	return errors.Join(err, f.failed(ctx, err))
}

// there tells whether the files of all layers are on the share, as they are
// written down.
func (c *Controller) there(layers []v1beta1.CachedLayer) (bool, error) {
	for _, l := range layers {
		found, ok, err := c.cfg.Share.Find(l.DiffID)
		if err != nil {
			return false, err
		}
		if !ok || found.Path != l.Path || found.Root.String() != l.Root {
			return false, nil
		}
	}
	return true, nil
}

// pull makes the files of an image's layers, and tells f of each that is there.
func (c *Controller) pull(ctx context.Context, from source, m manifest, f *fetching) ([]v1beta1.CachedLayer, error) {
	list, config, err := c.describe(ctx, from, m)
	if err != nil {
		return nil, fmt.Errorf("reading the image's manifest: %w", err)
	}
	if len(list.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%w: its manifest has %d layers and its configuration %d", errNotCacheable, len(list.Layers), len(config.RootFS.DiffIDs))
	}
	for _, l := range list.Layers {
		f.bytes += l.Size
	}
	var layers []v1beta1.CachedLayer
	for i, l := range list.Layers {
		if !l.MediaType.IsLayer() || !l.MediaType.IsDistributable() {
			return nil, fmt.Errorf("%w: a layer is of type %s", errNotCacheable, l.MediaType)
		}
		made, err := c.layer(ctx, from, l.Digest, config.RootFS.DiffIDs[i].String(), f)
		if err != nil {
			return nil, err
		}
		if made.LowestOnly && i > 0 {
			return nil, fmt.Errorf("%w: layer %s has files in a directory that it does not describe", errNotCacheable, l.Digest)
		}
		layers = append(layers, made)
		if i < len(list.Layers)-1 {
			f.arrived(ctx, layers)
		}
	}
	// Pulling may have taken long. What the sweep took for leftovers meanwhile
	// must not be written down.
	if there, err := c.there(layers); err != nil || !there {
		return nil, errors.Join(err, errors.New("a layer's file is gone already"))
	}
	return layers, nil
}

func (c *Controller) describe(ctx context.Context, from source, m manifest) (list *v1.Manifest, config *v1.ConfigFile, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookUp)
	defer cancel()
	_, err = c.cfg.Places.Ask(ctx, from.repository.Digest(m.digest), from.logins, func(at name.Reference, how ...remote.Option) error {
		image, err := remote.Image(at, how...)
		if err != nil {
			return err
		}
		if list, err = image.Manifest(); err != nil {
			return err
		}
		config, err = image.ConfigFile()
		return err
	})
	return list, config, err
}

// write writes down what the cache has of an image, and until when cells wait for
// the rest, if they do.
func (c *Controller) write(ctx context.Context, image *v1beta1.CachedImage, layers []v1beta1.CachedLayer, ready metav1.Condition, fetchedBy *metav1.Time) error {
	now := metav1.NewTime(c.cfg.Clock.Now())
	status := image.Status.DeepCopy()
	status.Layers, status.Size, status.LastUsed, status.FetchedBy = layers, 0, &now, fetchedBy
	for _, l := range layers {
		status.Size += layer.FileSize(l.Size)
	}
	meta.SetStatusCondition(&status.Conditions, ready)
	if image.ResourceVersion == "" {
		// The status goes its own way, so it is kept out of this.
		if err := c.cfg.Client.Create(ctx, image); err != nil {
			return fmt.Errorf("making CachedImage %s: %w", image.Name, err)
		}
	}
	image.Status = *status
	if err := c.cfg.Client.Status().Update(ctx, image); err != nil {
		return fmt.Errorf("writing CachedImage %s: %w", image.Name, err)
	}
	if fetchedBy == nil {
		c.cfg.Logger.InfoContext(ctx, "image in the cache", "image", image.Spec.Repository+"@"+image.Spec.Digest, "architecture", image.Spec.Architecture, "reason", ready.Reason, "bytes", image.Status.Size)
	}
	return nil
}

func readyCondition(is metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: v1beta1.ConditionReady, Status: is, Reason: reason, Message: message}
}

// noteUse writes down that an image is used, not more often than needed.
func (c *Controller) noteUse(ctx context.Context, image *v1beta1.CachedImage) error {
	now := c.cfg.Clock.Now()
	if used := image.Status.LastUsed; used != nil && now.Sub(used.Time) < lookAgain/2 {
		return nil
	}
	before := image.DeepCopy()
	image.Status.LastUsed = &metav1.Time{Time: now}
	if err := c.cfg.Client.Status().Patch(ctx, image, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("noting the use of CachedImage %s: %w", image.Name, err)
	}
	return nil
}
