package ociimage

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// WriteArchive writes an index under a name as a tar file of an OCI layout,
// which containerd, podman, skopeo and kip-local read.
func WriteArchive(path string, index v1.ImageIndex, as string) error {
	ref, err := name.ParseReference(as)
	if err != nil {
		return fmt.Errorf("image name %q: %w", as, err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	top := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index, Descriptor: v1.Descriptor{
		Annotations: map[string]string{ociNames[0]: ref.Name(), ociNames[1]: ref.Identifier()},
	}})
	content := filepath.Join(dir, "layout")
	if _, err := layout.Write(content, top); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	partial := filepath.Join(dir, "tar")
	if err := pack(partial, content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(partial, path)
}

// pack makes a tar file of a directory, in the order of names and without
// times, so that the same content makes the same file.
func pack(path, dir string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	files := os.DirFS(dir)
	err = fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size()}); err != nil {
			return err
		}
		f, err := files.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
	return errors.Join(err, w.Close())
}
