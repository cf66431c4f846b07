// Command image makes Kip's container image for several architectures from the
// static programs, without a container engine, and may push it to a registry.
//
//	go run ./hack/image -name docker.io/elotl/kip:1.0 -o bin/kip-image.tar amd64=FILE arm64=FILE
//
// The same programs make the same image. A registry that asks who pushes is
// told what ~/.docker/config.json holds, or $REGISTRY_USER and
// $REGISTRY_PASSWORD, where they are set.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/internal/ociimage"
)

func main() {
	as := flag.String("name", "", "the image's name, with its tag")
	out := flag.String("o", "", "the archive to write, a tar file of an OCI layout")
	push := flag.Bool("push", false, "push the image as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *as, *out, *push, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, as, out string, push bool, programs []string) error {
	if as == "" || out == "" || len(programs) == 0 {
		return errors.New("-name, -o and at least one ARCHITECTURE=PROGRAM must be given")
	}
	var images []v1.Image
	for _, p := range programs {
		architecture, file, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("%q is not of the form ARCHITECTURE=PROGRAM", p)
		}
		image, err := ociimage.Build(ociimage.Kip(file, architecture))
		if err != nil {
			return err
		}
		images = append(images, image)
	}
	index, err := ociimage.Index(images...)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := ociimage.WriteArchive(out, index, as); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s\n  %s in %s\n", as, digest, out)
	if !push {
		return nil
	}
	ref, err := name.ParseReference(as)
	if err != nil {
		return fmt.Errorf("image name %q: %w", as, err)
	}
	if err := remote.Push(ref, index, remote.WithContext(ctx), credentials()); err != nil {
		return fmt.Errorf("pushing %s: %w", as, err)
	}
	fmt.Println("  pushed")
	return nil
}

func credentials() remote.Option {
	if user := os.Getenv("REGISTRY_USER"); user != "" {
		return remote.WithAuth(&authn.Basic{Username: user, Password: os.Getenv("REGISTRY_PASSWORD")})
	}
	return remote.WithAuthFromKeychain(authn.DefaultKeychain)
}
