package localcluster

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
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
			images, err := readArchive(tc.path, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, i := range images {
				names = append(names, i.name)
				if got, err := i.image.ConfigName(); err != nil || got != want {
					t.Errorf("%s: configuration %v, %v", i.name, got, err)
				}
				if err := layersRead(i.image); err != nil {
					t.Errorf("%s: %v", i.name, err)
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
		"several platforms":   {ociTar(t, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image}), map[string]string{"io.containerd.image.name": "a/b:1"}), "several platforms"},
		"docker without name": {dockerTar(t, image, "web@sha256:"+strings.Repeat("0", 64)), "has a name"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := readArchive(tc.path, filepath.Join(dir, "in", "here")); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
			if _, err := os.Stat(filepath.Join(dir, "escaped")); err == nil {
				t.Error("it wrote outside")
			}
		})
	}
	// What was unpacked goes, whatever came of it.
	c := &Cluster{Config: Config{Dir: t.TempDir()}}
	if _, err := c.Load(t.Context(), escaping); err == nil {
		t.Error("loaded")
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
