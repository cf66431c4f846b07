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
	"time"
)

// The programs of a container cell's machine image. kip-cell is the init.
var (
	cellPrograms = []string{"kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc"}
	cellPlugins  = []string{"ptp", "static", "portmap", "loopback", "host-local", "bridge"}
)

// makeImage makes the machine image of container cells from the programs that
// were built. An image is never changed: when a program is, another image is
// made, and Kip takes the newest.
func (c *Cluster) makeImage() error {
	files := map[string]string{"opt/kip/bin/kip-cell": c.bin("kip-cell")}
	for _, p := range cellPrograms {
		files["opt/kip/bin/"+p] = c.tool(p)
	}
	for _, p := range cellPlugins {
		files["opt/kip/cni/bin/"+p] = c.tool(p)
	}
	name, err := imageName(files)
	if err != nil {
		return err
	}
	final := filepath.Join(c.path("images"), name)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	partial := final + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	for path, source := range files {
		// Links would do for what never changes, but kip-cell is built in place.
		if err := copyProgram(filepath.Join(partial, "rootfs", path), source); err != nil {
			return fmt.Errorf("making the machine image: %w", err)
		}
	}
	sbin := filepath.Join(partial, "rootfs", "sbin")
	if err := os.MkdirAll(sbin, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/opt/kip/bin/kip-cell", filepath.Join(sbin, "init")); err != nil {
		return err
	}
	description, err := json.MarshalIndent(map[string]any{
		"name": name, "description": "Kip cell of the local cluster", "architecture": architecture(),
		"creationDate": time.Now().UTC().Format(time.RFC3339), "ownerId": accountID, "tags": map[string]string{},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(partial, "image.json"), description, 0o600); err != nil {
		return err
	}
	return os.Rename(partial, final)
}

// accountID is ec2local's only account.
const accountID = "123456789012"

func architecture() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return runtime.GOARCH
}

// imageName changes whenever one of the programs was built anew.
func imageName(files map[string]string) (string, error) {
	h := sha256.New()
	// In the order of a sorted walk, whatever the map's.
	encoded := map[string]string{}
	for path, source := range files {
		info, err := os.Stat(source)
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s is not built: run make tools build", source)
		}
		if err != nil {
			return "", err
		}
		encoded[path] = fmt.Sprint(info.Size(), info.ModTime().UnixNano())
	}
	if err := json.NewEncoder(h).Encode(encoded); err != nil {
		return "", err
	}
	return "kip-cell-" + hex.EncodeToString(h.Sum(nil)[:6]), nil
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
