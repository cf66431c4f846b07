package localcluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CellKind is what cells are.
type CellKind string

const (
	// CellsContainer: sandboxes of this machine, which boot in tens of milliseconds.
	CellsContainer CellKind = "container"
	// CellsVM: virtual machines that boot Kip's own machine image (make
	// cell-image). The ordinary node stays a sandbox.
	CellsVM CellKind = "vm"
)

// cellKinds are all of them, the default first.
var cellKinds = []string{string(CellsContainer), string(CellsVM)}

// imagePrefix is what the names of the cells' machine images begin with.
func (c *Cluster) imagePrefix() string {
	if c.Cells == CellsVM {
		return "kip-vm-"
	}
	return cellImage.prefix
}

// takeVMImage makes the image that make cell-image built known to the cloud. Its
// files are shared: a new build makes new files.
func (c *Cluster) takeVMImage() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("taking the machine image of virtual machines: %w", err)
		}
	}()
	built := filepath.Join(c.Root, ".cache", "cell-image")
	files := []string{"kernel", "initrd", "cmdline", "disk"}
	h := sha256.New()
	for _, name := range files {
		info, err := os.Stat(filepath.Join(built, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not built: run make cell-image", filepath.Join(built, name))
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(h, name, info.Size(), info.ModTime().UnixNano())
	}
	name := c.imagePrefix() + hex.EncodeToString(h.Sum(nil)[:6])
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
	if err := describeImage(partial, name, "Kip cell of the local cluster, a virtual machine"); err != nil {
		return err
	}
	return os.Rename(partial, final)
}
