package ociimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func build(t *testing.T, text string) v1.Image {
	t.Helper()
	image, err := Build(Spec{
		Files: map[string]string{"/web": program(t, text), "/usr/bin/tool": program(t, "tool")},
		Links: map[string]string{"/bin/sh": "/web"}, Entrypoint: []string{"/web"}, Cmd: []string{"serve"}, Env: []string{"A=b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestBuildIsReproducible(t *testing.T) {
	digest := func(i v1.Image) string {
		d, err := i.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	if a, b := digest(build(t, "x")), digest(build(t, "x")); a != b {
		t.Errorf("%s and %s from the same files", a, b)
	}
	if digest(build(t, "x")) == digest(build(t, "y")) {
		t.Error("the same digest from other files")
	}
	image := build(t, "x")
	config, err := image.ConfigFile()
	if err != nil || config.OS != "linux" || config.Config.Entrypoint[0] != "/web" || config.Config.Cmd[0] != "serve" || !slices.Contains(config.Config.Env, "A=b") {
		t.Errorf("%+v, %v", config, err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%v, %v", layers, err)
	}
	rc, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got := map[string]int64{}
	var order []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		got[h.Name] = h.Mode
		order = append(order, h.Name)
	}
	want := map[string]int64{"tmp/": 0o1777, "usr/": 0o755, "usr/bin/": 0o755, "usr/bin/tool": 0o755, "web": 0o755, "bin/": 0o755, "bin/sh": 0o777}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if slices.Index(order, "usr/") > slices.Index(order, "usr/bin/tool") {
		t.Errorf("a file before its directory: %v", order)
	}
	if err := validateManifest(image); err != nil {
		t.Error(err)
	}
}

// Without compression the layer is the tar file itself, by the same digest.
func TestBuildUncompressed(t *testing.T) {
	image, err := Build(Spec{
		Files: map[string]string{"/bin/su": program(t, "su"), "/bin/ls": program(t, "ls")}, SetUserID: []string{"/bin/su"}, Uncompressed: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := validateManifest(image); err != nil {
		t.Error(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%v, %v", layers, err)
	}
	digest, digestErr := layers[0].Digest()
	diffID, diffErr := layers[0].DiffID()
	if err := errors.Join(digestErr, diffErr); err != nil || digest != diffID {
		t.Errorf("digest %s, of what is in it %s, %v", digest, diffID, err)
	}
	content, err := layers[0].Compressed() // as it is pushed
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	modes := map[string]int64{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		modes[h.Name] = h.Mode
	}
	if want := map[string]int64{"tmp/": 0o1777, "bin/": 0o755, "bin/ls": 0o755, "bin/su": 0o4755}; cmp.Diff(want, modes) != "" {
		t.Error(cmp.Diff(want, modes))
	}
}

func validateManifest(image v1.Image) error {
	m, err := image.RawManifest()
	if err != nil {
		return err
	}
	_, err = v1.ParseManifest(bytes.NewReader(m))
	return err
}

func TestBuildRefuses(t *testing.T) {
	here := program(t, "x")
	for name, spec := range map[string]Spec{
		"relative":      {Files: map[string]string{"web": here}},
		"empty":         {Files: map[string]string{"": here}},
		"root":          {Files: map[string]string{"/": here}},
		"outside":       {Files: map[string]string{"/../web": here}},
		"relative link": {Links: map[string]string{"sh": "/web"}},
		"missing":       {Files: map[string]string{"/web": here + ".none"}},
	} {
		if _, err := Build(spec); err == nil {
			t.Errorf("%s: built", name)
		}
	}
}
