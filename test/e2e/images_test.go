package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/elotl/kip/v2/internal/ociimage"
)

const (
	busyboxImage = "docker.io/library/busybox:latest"
	testImage    = "docker.io/elotl/kip-e2e:latest"
)

// pushTestImages puts busybox and the test program into the cluster's registry.
func pushTestImages(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "kip-e2e-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	busybox, err := findBusybox(ctx, dir)
	if err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("asking %s for its applets: %w", busybox, err)
	}
	links := map[string]string{}
	for applet := range strings.FieldsSeq(string(applets)) {
		links["/bin/"+applet] = "/bin/busybox"
	}
	delete(links, "/bin/busybox")
	program := filepath.Join(dir, "testimage")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./testimage")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the test image's program: %w\n%s", err, out)
	}
	for name, spec := range map[string]ociimage.Spec{
		busyboxImage: {Files: map[string]string{"/bin/busybox": busybox}, Links: links, Cmd: []string{"sh"}},
		testImage:    {Files: map[string]string{"/testimage": program}, Entrypoint: []string{"/testimage"}},
	} {
		image, err := ociimage.Build(spec)
		if err != nil {
			return err
		}
		if err := shared.Push(ctx, image, name); err != nil {
			return err
		}
		images[name] = image
	}
	return nil
}

// images are those that were pushed, for tests that push them under yet
// another name.
var images = map[string]v1.Image{}

// findBusybox returns a static busybox: the machine's, or that of Debian's
// package, which is fetched but not installed.
func findBusybox(ctx context.Context, dir string) (string, error) {
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if out, err := exec.CommandContext(ctx, "ldd", path).CombinedOutput(); err != nil && strings.Contains(string(out), "not a dynamic executable") {
			return path, nil
		}
	}
	fetch := exec.CommandContext(ctx, "sh", "-ec", "apt-get download busybox-static && dpkg -x busybox-static_*.deb .")
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetching Debian's busybox-static: %w\n%s", err, out)
	}
	for _, path := range []string{"bin/busybox", "usr/bin/busybox"} {
		if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
			return filepath.Join(dir, path), nil
		}
	}
	return "", errors.New("Debian's busybox-static holds no bin/busybox")
}
