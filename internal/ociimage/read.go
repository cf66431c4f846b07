package ociimage

import (
	"archive/tar"
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

// Named is an image, or an index of images, with the name by which it is asked
// for.
type Named struct {
	Name    string
	Content remote.Taggable
}

// ReadArchive reads the images of a tar file: an OCI layout, or what docker
// save writes. An OCI layout is unpacked into scratch and read from there when
// the images are.
func ReadArchive(path, scratch string) ([]Named, error) {
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

func dockerArchive(open tarball.Opener, manifest tarball.Manifest) ([]Named, error) {
	var images []Named
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
			images = append(images, Named{tag.Name(), image})
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

func ociArchive(path, dir string) ([]Named, error) {
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
	var images []Named
	for _, d := range manifest.Manifests {
		ref := ociName(d.Annotations)
		if ref == "" {
			return nil, fmt.Errorf("image %s has no name: annotate it with %s", d.Digest, ociNames[0])
		}
		image, err := content(index, d)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", ref, err)
		}
		images = append(images, Named{ref, image})
	}
	if len(images) == 0 {
		return nil, errors.New("its index names no image")
	}
	return images, nil
}

func content(index v1.ImageIndex, d v1.Descriptor) (remote.Taggable, error) {
	switch {
	case d.MediaType.IsImage():
		return index.Image(d.Digest)
	case d.MediaType.IsIndex():
		return index.ImageIndex(d.Digest)
	}
	return nil, fmt.Errorf("its media type %s is neither an image's nor an index's", d.MediaType)
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
