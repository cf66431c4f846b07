package localcluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/elotl/kip/v2/internal/cellsoftware"
)

// CellKind is what cells are.
type CellKind string

const (
	// CellsContainer: sandboxes of this machine, which boot in tens of milliseconds.
	CellsContainer CellKind = "container"
	// CellsVM: virtual machines that boot Kip's own machine image (make
	// cell-image). The ordinary node stays a sandbox.
	CellsVM CellKind = "vm"
	// CellsStock: virtual machines that boot a distribution with cloud-init
	// (make stock-image), which stands for Amazon's image for EKS nodes. Kip finds
	// it as it finds that one, and user data makes a cell of it.
	CellsStock CellKind = "stock"
	// CellsHollow: cells without containers, thousands of them in ec2local's own
	// process, for measuring Kip. There is no ordinary node beside them, and a
	// cluster has them from its first Up or never.
	CellsHollow CellKind = "hollow"
)

// Virtual says whether cells are virtual machines, with a kernel of their own.
func (k CellKind) Virtual() bool { return k == CellsVM || k == CellsStock }

// cellKinds are all of them, the default first.
var cellKinds = []string{string(CellsContainer), string(CellsVM), string(CellsStock), string(CellsHollow)}

// imagePrefix is what the names of the cells' machine images begin with; empty
// where Kip chooses.
func (c *Cluster) imagePrefix() string {
	switch c.Cells {
	case CellsVM:
		return "kip-vm-"
	case CellsHollow:
		return hollowImage
	case CellsStock:
		return ""
	}
	return cellImage.prefix
}

// amazon is the account that owns Amazon's images for EKS nodes.
const amazon = "602401143452"

// takeVMImage makes the image that was built known to the cloud.
func (c *Cluster) takeVMImage() error {
	if c.Cells == CellsStock {
		// The name says for which Kubernetes it is: the kubelet's own version.
		link, err := os.Readlink(c.tool("kubelet"))
		if err != nil {
			return fmt.Errorf("finding the kubelet's version: %w", err)
		}
		version := strings.Split(strings.TrimPrefix(filepath.Base(filepath.Dir(link)), "v"), ".")
		prefix := "amazon-eks-node-al2023-x86_64-standard-" + strings.Join(version[:2], ".") + "-v"
		return c.takeImage("stock-image", prefix, "Stands for Amazon's image for EKS nodes", amazon)
	}
	return c.takeImage("cell-image", c.imagePrefix(), "Kip cell of the local cluster, a virtual machine", accountID)
}

// takeImage shares the files of an image that make built: a new build makes new
// files.
func (c *Cluster) takeImage(target, prefix, description, owner string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("taking the machine image of virtual machines: %w", err)
		}
	}()
	built := filepath.Join(c.Root, ".cache", target)
	files := []string{"kernel", "initrd", "cmdline", "disk"}
	h := sha256.New()
	for _, name := range files {
		info, err := os.Stat(filepath.Join(built, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not built: run make %s", filepath.Join(built, name), target)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(h, name, info.Size(), info.ModTime().UnixNano())
	}
	name := prefix + hex.EncodeToString(h.Sum(nil)[:6])
	final := filepath.Join(c.path("images"), name)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	partial := final + ".partial"
	if err := errors.Join(os.RemoveAll(partial), os.Mkdir(partial, 0o700)); err != nil {
		return err
	}
	for _, name := range files {
		if err := os.Link(filepath.Join(built, name), filepath.Join(partial, name)); err != nil {
			return err
		}
	}
	if err := describeImage(partial, name, description, owner); err != nil {
		return err
	}
	return os.Rename(partial, final)
}

// softwareName is what the software of stock images is called in the registry.
const softwareName = "docker.io/elotl/kip-cell-software:latest"

// pushSoftware puts what a stock image lacks into the registry, where it has an
// address of its own that everybody may read: that of a layer.
func (c *Cluster) pushSoftware(ctx context.Context) error {
	if c.Cells != CellsStock {
		return nil
	}
	var archive bytes.Buffer
	if err := cellsoftware.Write(&archive, filepath.Dir(c.bin("kip-cell")), filepath.Dir(c.tool("kube-proxy"))); err != nil {
		return err
	}
	layer := static.NewLayer(archive.Bytes(), types.OCILayer)
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("packing the software of stock images: %w", err)
	}
	digest, err := layer.Digest()
	if err != nil {
		return fmt.Errorf("packing the software of stock images: %w", err)
	}
	ref, err := name.ParseReference(softwareName)
	if err != nil {
		return err
	}
	if err := c.Push(ctx, image, softwareName); err != nil {
		return err
	}
	c.software = fmt.Sprintf("{architecture: %s, url: \"http://%s/v2/%s/blobs/%s\", sha256: %s}",
		runtime.GOARCH, c.registryAddress(), ref.Context().RepositoryStr(), digest, digest.Hex)
	return nil
}
