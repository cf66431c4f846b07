package platforms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/registry"
)

// ask returns the architectures of an image, never none without an error.
func (r *Resolver) ask(ctx context.Context, image string) ([]string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, err
	}
	places := r.cfg.Places.Of(ref)
	if len(places) == 0 {
		return nil, fmt.Errorf("%s is not asked over plain http", registry.Host(ref.Context()))
	}
	var errs []error
	for _, at := range places {
		found, err := read(ctx, at.Reference, registry.Bounded(at.Via))
		if err == nil {
			return found, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// read asks one registry.
func read(ctx context.Context, ref name.Reference, via http.RoundTripper) ([]string, error) {
	got, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(via), remote.WithAuth(authn.Anonymous),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithUserAgent("kip"))
	if err != nil {
		return nil, err
	}
	var found []string
	add := func(os, architecture string) {
		if os == "linux" && (architecture == instancetype.AMD64 || architecture == instancetype.ARM64) && !slices.Contains(found, architecture) {
			found = append(found, architecture)
		}
	}
	switch {
	case got.MediaType.IsIndex():
		index, err := got.ImageIndex()
		if err != nil {
			return nil, err
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			return nil, err
		}
		for _, m := range manifest.Manifests {
			if p := m.Platform; p != nil {
				add(p.OS, p.Architecture)
			}
		}
	case got.MediaType.IsImage():
		image, err := got.Image()
		if err != nil {
			return nil, err
		}
		var config *v1.ConfigFile
		if config, err = image.ConfigFile(); err != nil {
			return nil, err
		}
		add(config.OS, config.Architecture)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s (%s) names no architecture of cells", ref, got.MediaType)
	}
	slices.Sort(found)
	return found, nil
}
