package localcluster

import (
	"context"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/internal/ociimage"
)

// Push puts an image, or an index of images, into the cluster's registry under the name by which pods
// ask for it. Cells ask that registry first for every host and by path alone:
// docker.io/library/a and quay.io/library/a are the same there.
func (c *Cluster) Push(ctx context.Context, image remote.Taggable, as string) error {
	ref, err := name.ParseReference(as)
	if err != nil {
		return fmt.Errorf("image name %q: %w", as, err)
	}
	local, err := name.ParseReference(fmt.Sprintf("%s/%s%s", c.registryAddress(), ref.Context().RepositoryStr(), suffix(ref)), name.Insecure)
	if err != nil {
		return fmt.Errorf("image name %q: %w", as, err)
	}
	if err := remote.Push(local, image, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s to the local registry: %w", as, err)
	}
	return nil
}

func suffix(ref name.Reference) string {
	if d, ok := ref.(name.Digest); ok {
		return "@" + d.DigestStr()
	}
	return ":" + ref.Identifier()
}

// Load puts the images of a tar file, an OCI layout or what docker save
// writes, into the cluster's registry and returns their names.
func (c *Cluster) Load(ctx context.Context, path string) ([]string, error) {
	// An image reads its layers while it is pushed, so the unpacked archive
	// stays until then.
	dir, err := os.MkdirTemp(c.Dir, "load-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	images, err := ociimage.ReadArchive(path, dir)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	var names []string
	for _, i := range images {
		if err := c.Push(ctx, i.Content, i.Name); err != nil {
			return names, err
		}
		names = append(names, i.Name)
	}
	return names, nil
}
