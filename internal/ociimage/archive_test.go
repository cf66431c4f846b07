package ociimage

import (
	"archive/tar"
	"bytes"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// dockerTar writes an image as docker save would.
func dockerTar(t *testing.T, image v1.Image, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.tar")
	images := map[name.Reference]v1.Image{}
	for _, n := range names {
		ref, err := name.ParseReference(n)
		if err != nil {
			t.Fatal(err)
		}
		images[ref] = image
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.MultiRefWrite(images, f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// ociTar writes an image as an OCI layout, with these annotations.
func ociTar(t *testing.T, add mutate.Appendable, annotations map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: add, Descriptor: v1.Descriptor{Annotations: annotations}})
	if _, err := layout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "oci.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadArchive(t *testing.T) {
	image := build(t, "x")
	want, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path  string
		names []string
	}{
		"docker":            {dockerTar(t, image, "web:1"), []string{"index.docker.io/library/web:1"}},
		"docker, two names": {dockerTar(t, image, "quay.io/a/web:1", "quay.io/a/web:2"), []string{"quay.io/a/web:1", "quay.io/a/web:2"}},
		"OCI, containerd":   {ociTar(t, image, map[string]string{"io.containerd.image.name": "docker.io/a/web:1", "org.opencontainers.image.ref.name": "1"}), []string{"docker.io/a/web:1"}},
		"OCI, full":         {ociTar(t, image, map[string]string{"org.opencontainers.image.ref.name": "quay.io/a/web:1"}), []string{"quay.io/a/web:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			images, err := ReadArchive(tc.path, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, i := range images {
				names = append(names, i.Name)
				image, ok := i.Content.(v1.Image)
				if !ok {
					t.Fatalf("%s: %T is no image", i.Name, i.Content)
				}
				if got, err := image.ConfigName(); err != nil || got != want {
					t.Errorf("%s: configuration %v, %v", i.Name, got, err)
				}
				if err := layersRead(image); err != nil {
					t.Errorf("%s: %v", i.Name, err)
				}
			}
			slices.Sort(names)
			if diff := cmp.Diff(tc.names, names); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func layersRead(i v1.Image) error {
	layers, err := i.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			return err
		}
		if err := rc.Close(); err != nil {
			return err
		}
	}
	return nil
}

func TestReadArchiveRefuses(t *testing.T) {
	image := build(t, "x")
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	escaping := filepath.Join(t.TempDir(), "escape.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []string{"index.json", "../../escaped"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f, Size: 2, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(escaping, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ path, want string }{
		"missing":             {filepath.Join(t.TempDir(), "none.tar"), "no such file"},
		"text":                {program(t, "hello"), "neither"},
		"empty":               {program(t, ""), "neither"},
		"escaping":            {escaping, "out of the archive"},
		"no name":             {ociTar(t, image, nil), "has no name"},
		"a tag is no name":    {ociTar(t, image, map[string]string{"org.opencontainers.image.ref.name": "latest"}), "has no name"},
		"no image":            {ociTar(t, layers[0], map[string]string{"io.containerd.image.name": "a/b:1"}), "neither an image's nor an index's"},
		"docker without name": {dockerTar(t, image, "web@sha256:"+strings.Repeat("0", 64)), "has a name"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := ReadArchive(tc.path, filepath.Join(dir, "in", "here")); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "escaped")); err == nil {
				t.Error("it wrote outside")
			}
		})
	}
}

// TestWriteArchive: what is written for two architectures is read back as such,
// and is the same file each time.
func TestWriteArchive(t *testing.T) {
	write := func() string {
		var images []v1.Image
		for _, architecture := range []string{"amd64", "arm64"} {
			image, err := Build(Kip(program(t, "kip for "+architecture), architecture))
			if err != nil {
				t.Fatal(err)
			}
			images = append(images, image)
		}
		index, err := Index(images...)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "kip.tar")
		if err := WriteArchive(path, index, "registry.example/elotl/kip:1.0"); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("left beside the archive: %v, %v", left, err)
		}
		return path
	}
	path := write()
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(write()); err != nil || !bytes.Equal(first, second) {
		t.Errorf("the same programs make another archive (%v)", err)
	}

	named, err := ReadArchive(path, t.TempDir())
	if err != nil || len(named) != 1 || named[0].Name != "registry.example/elotl/kip:1.0" {
		t.Fatalf("%+v, %v", named, err)
	}
	index, ok := named[0].Content.(v1.ImageIndex)
	if !ok {
		t.Fatalf("%T is no index", named[0].Content)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if got := config.OS + "/" + config.Architecture; got != m.Platform.String() || config.Config.User != "65532:65532" {
			t.Errorf("%s: the image says %s, user %q", m.Platform, got, config.Config.User)
		}
		if err := layersRead(image); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Error(diff)
	}

	// A registry takes it as it was read, all platforms.
	server := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/elotl/kip:1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(ref, named[0].Content); err != nil {
		t.Fatal(err)
	}
	arm, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := layersRead(arm); err != nil {
		t.Error(err)
	}
	if err := WriteArchive(filepath.Join(t.TempDir(), "x.tar"), index, "No Name"); err == nil {
		t.Error("written under a name that is none")
	}
}
