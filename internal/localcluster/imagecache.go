package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/registry"
)

const (
	// shareInCells is where container cells have the image cache's share. Others
	// mount it from a file server; the kernel of this machine may have no client
	// for one.
	shareInCells = "/srv/kip-image-cache"

	cacheAccount = "kip-image-cache"

	// Both on the machine's address in the VPC, which is this cluster's alone.
	cacheHealthPort  = 8081
	cacheMetricsPort = 9090
)

// shareDir is the share, scratchDir the disk of the controller that fills it.
func (c *Cluster) shareDir() string   { return c.path(filepath.Join("image-cache", "share")) }
func (c *Cluster) scratchDir() string { return c.path(filepath.Join("image-cache", "scratch")) }

// cacheEndpoint is what provider.yaml says of the image cache, empty if there is
// none.
func (c *Cluster) cacheEndpoint() string {
	if !c.ImageCache {
		return ""
	}
	if c.hasNFS() {
		return c.settings.host().String() + ":/"
	}
	return shareInCells
}

// checkImageCache refuses what cannot have one.
func (c *Cluster) checkImageCache() error {
	if !c.ImageCache {
		return nil
	}
	if c.Kip == KipNone {
		return errors.New("the image cache is Kip's: without Kip there is none")
	}
	if c.Cells == CellsHollow {
		return fmt.Errorf("cells of kind %q have no images, and no use for an image cache", c.Cells)
	}
	return nil
}

// makeShare makes the directories of the image cache.
func (c *Cluster) makeShare() error {
	if !c.ImageCache {
		return nil
	}
	if err := errors.Join(os.MkdirAll(c.shareDir(), 0o700), os.MkdirAll(c.scratchDir(), 0o700)); err != nil {
		return fmt.Errorf("making the image cache's directories: %w", err)
	}
	return nil
}

// imageCache is the controller that fills the cache. It is a process of this
// machine however Kip runs: the ordinary node has no client for a file server.
func (c *Cluster) imageCache() process {
	health := net.JoinHostPort(c.settings.host().String(), strconv.Itoa(cacheHealthPort))
	return process{
		Name: ImageCache, Path: c.bin("kip"),
		Args: []string{
			"image-cache", "--provider-config=" + c.path("provider.yaml"), "--kubeconfig=" + c.path("image-cache.kubeconfig"),
			"--cluster-name=" + c.settings.Name, "--namespace=" + kipNamespace, "--node-name=" + NodeName,
			"--share=" + c.shareDir(), "--scratch=" + c.scratchDir(), "--keep=" + ExampleImage,
			"--health-listen=" + health, "--metrics-listen=" + net.JoinHostPort(c.settings.host().String(), strconv.Itoa(cacheMetricsPort)),
		},
		Env: []string{
			"AWS_ROLE_ARN=arn:aws:iam::" + accountID + ":role/" + cacheAccount,
			"AWS_WEB_IDENTITY_TOKEN_FILE=" + c.path("image-cache-aws.token"), "AWS_ENDPOINT_URL=" + c.ec2URL(),
		},
		Watch: []string{c.path("provider.yaml")},
		Ready: answers("http://" + health + "/readyz"),
	}
}

// startImageCache has the controller running if there is to be a cache, under
// the rights that ship, and the example's image in the cache.
func (c *Cluster) startImageCache(ctx context.Context) error {
	if !c.ImageCache {
		return c.processes.stop(ctx, c.imageCache())
	}
	rights := filepath.Join(c.Root, "kustomize", "image-cache", "rights.yaml")
	if err := c.kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", rights); err != nil {
		return fmt.Errorf("giving the image cache's controller its rights: %w", err)
	}
	for file, audiences := range map[string][]string{"image-cache.token": nil, "image-cache-aws.token": {"sts.amazonaws.com"}} {
		if err := c.writeToken(ctx, cacheAccount, file, audiences...); err != nil {
			return err
		}
	}
	if err := c.pki.kubeconfig(c.path("image-cache.kubeconfig"), c.apiserverURL(), cacheAccount, c.path("image-cache.token")); err != nil {
		return err
	}
	if err := c.ensure(c.imageCache)(ctx); err != nil {
		return err
	}
	return poll(ctx, "the example's image to be in the image cache (its log is "+c.LogPath(ImageCache)+")", func(ctx context.Context) (bool, error) {
		return c.Cached(ctx, ExampleImage)
	})
}

// Cached says whether an image is in the cache.
func (c *Cluster) Cached(ctx context.Context, image string) (bool, error) {
	reader, err := c.reader()
	if err != nil {
		return false, err
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		return false, err
	}
	var images v1beta1.CachedImageList
	if err := reader.List(ctx, &images); err != nil {
		return false, fmt.Errorf("looking for %s in the image cache: %w", image, err)
	}
	return slices.ContainsFunc(images.Items, func(i v1beta1.CachedImage) bool {
		return i.Spec.Repository == registry.Name(ref.Context()) && meta.IsStatusConditionTrue(i.Status.Conditions, v1beta1.ConditionReady)
	}), nil
}
