package deviceplugin

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Resource is what the kubelet and pods call a GPU, and the kind of device that
// the CDI specification describes.
const Resource = "nvidia.com/gpu"

// specDirs are where containerd looks for CDI specifications.
var specDirs = []string{"/etc/cdi", "/var/run/cdi"}

var gpuNode = regexp.MustCompile(`^nvidia[0-9]+$`)

// find counts the GPUs that containers can be given: those with a device node,
// once there is a specification. The error says what is missing.
func find(root string) (int, error) {
	nodes, err := os.ReadDir(filepath.Join(root, "dev"))
	if err != nil {
		return 0, fmt.Errorf("looking for GPUs: %w", err)
	}
	n := 0
	for _, node := range nodes {
		if gpuNode.MatchString(node.Name()) {
			n++
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("there is no /dev/nvidia0: NVIDIA's driver is not loaded")
	}
	if !slices.ContainsFunc(specDirs, func(dir string) bool { return specified(filepath.Join(root, dir)) }) {
		return 0, fmt.Errorf("no CDI specification of %s is in %s (nvidia-ctk cdi generate makes it)", Resource, strings.Join(specDirs, " or "))
	}
	return n, nil
}

// specified tells whether a specification of the devices is in a directory. It
// is JSON or YAML; containerd says what else is wrong with it.
func specified(dir string) bool {
	files, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err == nil && strings.Contains(string(content), Resource) {
			return true
		}
	}
	return false
}
