package conformance

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// root is Kip's source tree.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// need skips a test without a program that make builds.
func need(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built: make build tools-test", path)
	}
}

func TestImages(t *testing.T) {
	root := root(t)
	need(t, filepath.Join(root, ".cache", "tools", "bin", "agnhost"))
	need(t, filepath.Join(root, "bin", "pause"))
	const (
		agnhost = "registry.k8s.io/e2e-test-images/agnhost:1"
		nnp     = "registry.k8s.io/e2e-test-images/nonewprivs:1"
		nonroot = "registry.k8s.io/e2e-test-images/nonroot:1"
		other   = "registry.k8s.io/e2e-test-images/volume/nfs:1"
	)
	images, err := Images(t.Context(), root, t.TempDir(), []string{agnhost, nnp, nonroot, other})
	if err != nil {
		t.Fatal(err)
	}
	if _, made := images[other]; made {
		t.Error("an image was made that nobody can make here")
	}
	in := files(t, images[agnhost])
	for _, path := range []string{"agnhost", "agnhost-2", "bin/sh", "usr/bin/env", "usr/bin/curl", "localhost.key", "var/registry/pause/manifests/testing"} {
		if in[path] == nil {
			t.Errorf("agnhost lacks %s", path)
		}
	}
	if h := files(t, images[nnp])["usr/local/bin/nnp"]; h == nil || h.Mode&0o4000 == 0 {
		t.Errorf("nonewprivs has no program that runs as its owner: %+v", h)
	}
	config, err := images[nonroot].ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "1234" {
		t.Errorf("nonroot runs as %q", config.Config.User)
	}
}

// files are what an image consists of.
func files(t *testing.T, image v1.Image) map[string]*tar.Header {
	t.Helper()
	found := map[string]*tar.Header{}
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h
	}
}
