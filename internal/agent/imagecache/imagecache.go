package imagecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/imagecache/fuse"
	"github.com/elotl/kip/v2/internal/imagecache/settings"
)

// Paths in a cell.
const (
	// Program is kip-snapshotter's name in the program directory.
	Program = "kip-snapshotter"
	// SettingsFile is its argument.
	SettingsFile = "/etc/kip/snapshotter.json"
	// Socket is where it answers containerd.
	Socket = "/run/kip/snapshotter.sock"
	// AgentSocket is where the agent answers it.
	AgentSocket = "/run/kip/image-cache.sock"
	// Dir keeps its snapshots: as containerd's own, on the cell's disk.
	Dir = "/var/lib/kip/snapshotter"

	shareDir  = "/run/kip/share"
	layersDir = "/run/kip/layers"
)

// Layers mounts the file system that layers are served in. As long as the file
// is open, by the agent or by the program that serves, whoever reads a layer
// waits for it and does not fail. An agent that was restarted gets the one that
// there is.
func Layers() (*os.File, error) {
	if layers := kept(); layers != nil {
		return layers, nil
	}
	if err := os.MkdirAll(layersDir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing for layers of the image cache: %w", err)
	}
	// Nobody can serve any more what an agent left that was not restarted so.
	_ = unix.Unmount(layersDir, unix.MNT_DETACH)
	layers, err := fuse.Mount(layersDir)
	if err != nil {
		return nil, err
	}
	if err := keep(layers); err != nil {
		return nil, errors.Join(err, layers.Close())
	}
	return layers, nil
}

// WriteSettings writes, below root, what kip-snapshotter is to do.
func WriteSettings(root, sandboxImage string, mirrors map[string][]string) error {
	set := settings.Settings{Socket: Socket, Agent: AgentSocket, Dir: Dir, Layers: layersDir, Share: shareDir, Mirrors: mirrors}
	if sandboxImage != "" {
		set.Uncached = []string{sandboxImage}
	}
	data, err := json.Marshal(set)
	if err != nil {
		return fmt.Errorf("writing the snapshotter's settings: %w", err)
	}
	path := filepath.Join(root, SettingsFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing the snapshotter's settings: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("writing the snapshotter's settings: %w", err)
	}
	return nil
}
