package ociimage

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what is in an image.
type Spec struct {
	// Files are paths in the image and the local files that stand there; all
	// are executable.
	Files map[string]string
	// SetUserID are those of Files that run as their owner, root, whoever starts them.
	SetUserID []string
	// Links are symbolic links: path and target.
	Links      map[string]string
	Entrypoint []string
	Cmd        []string
	Env        []string
	// User is whom the container runs as: a user ID, or UID:GID. Empty means
	// root.
	User string
	// Architecture is the files', in Go's words; empty means this machine's.
	Architecture string
	// Uncompressed layers are made and unpacked in a fraction of the time, which
	// counts more than their size where the registry is on the same machine.
	Uncompressed bool
}

// Kip is the image of Kip itself: the static program alone. It needs no files
// of a distribution; the roots of trust for AWS's endpoints are in the program.
func Kip(program, architecture string) Spec {
	return Spec{
		Files: map[string]string{"/kip": program}, Entrypoint: []string{"/kip"}, Cmd: []string{"run"},
		User: "65532:65532", Architecture: architecture,
	}
}

// Build makes an image with one layer.
func Build(spec Spec) (v1.Image, error) {
	content, err := layerTar(spec)
	if err != nil {
		return nil, fmt.Errorf("making an image layer: %w", err)
	}
	layer := static.NewLayer(content, types.OCIUncompressedLayer)
	if !spec.Uncompressed {
		layer, err = tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
			tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("making an image layer: %w", err)
		}
	}
	base := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	base = mutate.ConfigMediaType(base, types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", cmp.Or(spec.Architecture, runtime.GOARCH)
	config.Config.Entrypoint, config.Config.Cmd, config.Config.User = spec.Entrypoint, spec.Cmd, spec.User
	config.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, spec.Env...)
	return mutate.ConfigFile(image, config)
}

// Index joins images of one program for several architectures under one name.
func Index(images ...v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("making an image index: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}},
		})
	}
	return index, nil
}

func layerTar(spec Spec) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	seen := map[string]bool{".": true, "/": true}
	var directory func(dir string) error
	directory = func(dir string) error {
		if seen[dir] {
			return nil
		}
		seen[dir] = true
		if err := directory(path.Dir(dir)); err != nil {
			return err
		}
		mode := int64(0o755)
		if dir == "/tmp" {
			mode = 0o1777
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode})
	}
	for _, name := range append(sortedKeys(spec.Files), sortedKeys(spec.Links)...) {
		if !path.IsAbs(name) || path.Clean(name) != name || name == "/" {
			return nil, fmt.Errorf("%q is not an absolute path of a file", name)
		}
	}
	if err := directory("/tmp"); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(spec.Files) {
		data, err := os.ReadFile(spec.Files[name])
		if err != nil {
			return nil, err
		}
		if err := directory(path.Dir(name)); err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if slices.Contains(spec.SetUserID, name) {
			mode |= 0o4000
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Mode: mode, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(spec.Links) {
		if err := directory(path.Dir(name)); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name[1:], Linkname: spec.Links[name], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
