package localcluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/internal/agent/deviceplugin"
)

// machineImage is what a machine image is made of. An image is never changed:
// when something in it is, another image is made, and the newest is used.
type machineImage struct {
	prefix, description string
	// programs and plugins are third-party programs, for /opt/kip/bin and
	// /opt/kip/cni/bin; own are Kip's, for /opt/kip/bin.
	own, programs, plugins []string
	// init is which of them is the machine's first process.
	init string
	// write adds files below the image's root directory; may be nil.
	write func(root string) error
}

// The programs of a container cell's machine image. kip-cell is the init.
var cellImage = machineImage{
	prefix: "kip-cell-", description: "Kip cell of the local cluster",
	own:      []string{"kip-cell", "kip-snapshotter"},
	programs: []string{"kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc"},
	plugins:  []string{"ptp", "static", "portmap", "loopback", "host-local", "bridge"},
	init:     "kip-cell",
	write:    writeGPUs,
}

// maxGPUs is the most that an instance type has.
const maxGPUs = 16

// writeGPUs writes what NVIDIA's toolkit would: what a GPU is to a container.
// ec2local makes the device nodes of an instance type with GPUs.
func writeGPUs(root string) error {
	var devices []object
	for i := range maxGPUs {
		devices = append(devices, object{"name": strconv.Itoa(i), "containerEdits": object{
			"deviceNodes": []object{{"path": fmt.Sprintf("/dev/nvidia%d", i)}},
		}})
	}
	data, err := json.MarshalIndent(object{"cdiVersion": "0.6.0", "kind": deviceplugin.Resource, "devices": devices}, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "etc", "cdi")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "nvidia.json"), data, 0o600)
}

func (c *Cluster) makeCellImage() error {
	switch c.Cells {
	case CellsVM, CellsStock:
		return c.takeVMImage()
	case CellsHollow:
		return c.makeHollowImage()
	default:
		_, err := c.makeImage(cellImage)
		return err
	}
}

// hollowImage is the machine image of hollow cells, which run nothing of it.
const hollowImage = "kip-hollow"

func (c *Cluster) makeHollowImage() error {
	dir := filepath.Join(c.path("images"), hollowImage)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return describeImage(dir, hollowImage, "Hollow cell of the local cluster", accountID)
}

// makeImage makes a machine image of what was built, if there is none of just
// that, and returns its name.
func (c *Cluster) makeImage(image machineImage) (name string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the machine image %s: %w", image.prefix, err)
		}
	}()
	files := map[string]string{}
	for _, p := range image.own {
		files["opt/kip/bin/"+p] = c.bin(p)
	}
	for _, p := range image.programs {
		files["opt/kip/bin/"+p] = c.tool(p)
	}
	for _, p := range image.plugins {
		files["opt/kip/cni/bin/"+p] = c.tool(p)
	}
	partial := filepath.Join(c.path("images"), image.prefix+"next.partial")
	if err := os.RemoveAll(partial); err != nil {
		return "", err
	}
	// Ends with the rename that completes the image, or here.
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	root := filepath.Join(partial, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "sbin"), 0o755); err != nil {
		return "", err
	}
	if image.write != nil {
		if err := image.write(root); err != nil {
			return "", err
		}
	}
	if name, err = imageName(image.prefix, files, root); err != nil {
		return "", err
	}
	final := filepath.Join(c.path("images"), name)
	if _, err := os.Stat(final); err == nil {
		return name, nil
	}
	for path, source := range files {
		// Links would do for what never changes, but kip-cell is built in place.
		if err := copyProgram(filepath.Join(root, path), source); err != nil {
			return "", err
		}
	}
	if err := os.Symlink("/opt/kip/bin/"+image.init, filepath.Join(root, "sbin", "init")); err != nil {
		return "", err
	}
	if err := describeImage(partial, name, image.description, accountID); err != nil {
		return "", err
	}
	return name, os.Rename(partial, final)
}

// describeImage writes what ec2local tells of an image.
func describeImage(dir, name, text, owner string) error {
	description, err := json.MarshalIndent(map[string]any{
		"name": name, "description": text, "architecture": architecture(),
		"creationDate": time.Now().UTC().Format(time.RFC3339), "ownerId": owner, "tags": map[string]string{},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "image.json"), description, 0o600)
}

// accountID is ec2local's only account.
const accountID = "123456789012"

func architecture() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return runtime.GOARCH
}

// imageName changes whenever one of the programs, or a file below root, is
// another one.
func imageName(prefix string, programs map[string]string, root string) (string, error) {
	// In the order of a sorted walk, whatever the map's.
	content := map[string]string{}
	for path, source := range programs {
		sum, err := digest(source)
		if err != nil {
			return "", err
		}
		content[path] = hex.EncodeToString(sum)
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		content[path[len(root)+1:]] = string(data)
		return err
	})
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(content); err != nil {
		return "", err
	}
	return prefix + hex.EncodeToString(h.Sum(nil)[:6]), nil
}

func copyProgram(path, source string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
