package localcluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Push puts an image into the cluster's registry under the name by which pods
// ask for it. Cells ask that registry first for every host and by path alone:
// docker.io/library/a and quay.io/library/a are the same there.
func (c *Cluster) Push(ctx context.Context, image v1.Image, as string) error {
	ref, err := name.ParseReference(as)
	if err != nil {
		return fmt.Errorf("image name %q: %w", as, err)
	}
	local, err := name.ParseReference(fmt.Sprintf("%s/%s%s", c.registryAddress(), ref.Context().RepositoryStr(), suffix(ref)), name.Insecure)
	if err != nil {
		return fmt.Errorf("image name %q: %w", as, err)
	}
	if err := remote.Write(local, image, remote.WithContext(ctx)); err != nil {
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
	images, err := readArchive(path, dir)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	var names []string
	for _, i := range images {
		if err := c.Push(ctx, i.image, i.name); err != nil {
			return names, err
		}
		names = append(names, i.name)
	}
	return names, nil
}

type namedImage struct {
	name  string
	image v1.Image
}

func readArchive(path, scratch string) ([]namedImage, error) {
	open := func() (io.ReadCloser, error) { return os.Open(path) }
	manifest, dockerErr := tarball.LoadManifest(open)
	if dockerErr == nil {
		return dockerArchive(open, manifest)
	}
	images, ociErr := ociArchive(path, scratch)
	if ociErr != nil {
		return nil, fmt.Errorf("it is neither a docker archive (%w) nor an OCI layout (%w)", dockerErr, ociErr)
	}
	return images, nil
}

func dockerArchive(open tarball.Opener, manifest tarball.Manifest) ([]namedImage, error) {
	var images []namedImage
	for _, m := range manifest {
		for _, t := range m.RepoTags {
			tag, err := name.NewTag(t)
			if err != nil {
				return nil, fmt.Errorf("image name %q: %w", t, err)
			}
			image, err := tarball.Image(open, &tag)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", t, err)
			}
			images = append(images, namedImage{tag.Name(), image})
		}
	}
	if len(images) == 0 {
		return nil, errors.New("none of its images has a name: save it with docker save NAME:TAG, not by ID")
	}
	return images, nil
}

// ociNames are the annotations by which tools name an image in a layout, the
// full name first.
var ociNames = []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"}

// ociName is the image's name, empty where there is none: a tag alone names
// nothing.
func ociName(annotations map[string]string) string {
	for _, key := range ociNames {
		if ref := annotations[key]; strings.ContainsAny(ref, "/:") {
			return ref
		}
	}
	return ""
}

func ociArchive(path, dir string) ([]namedImage, error) {
	if err := untar(path, dir); err != nil {
		return nil, err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images []namedImage
	for _, d := range manifest.Manifests {
		ref := ociName(d.Annotations)
		if ref == "" {
			return nil, fmt.Errorf("image %s has no name: annotate it with %s", d.Digest, ociNames[0])
		}
		if !d.MediaType.IsImage() {
			return nil, fmt.Errorf("image %s is an index of several platforms; save one platform", ref)
		}
		image, err := index.Image(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		images = append(images, namedImage{ref, image})
	}
	if len(images) == 0 {
		return nil, errors.New("its index names no image")
	}
	return images, nil
}

func untar(path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%q leads out of the archive", h.Name)
		}
		target := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}
