// Package containerd writes the configuration of a cell's containerd: one pod,
// one runtime, one snapshotter, and nothing loaded that a cell does not use,
// because what containerd holds in memory the user pays for beside every pod.
//
// It only writes files; package agent runs the process.
package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Paths of containerd in a cell.
const (
	ConfigFile = "/etc/kip/containerd/config.toml"
	Socket     = "/run/containerd/containerd.sock"
	// RegistryDir holds one directory with a hosts.toml per registry.
	RegistryDir = "/etc/kip/containerd/certs.d"
	// NetworkDir is where containerd looks for the CNI network.
	NetworkDir = "/etc/kip/cni"
)

// Config is what differs from cell to cell.
type Config struct {
	// RuncPath and NetworkPluginDir say where the image keeps runc and the CNI
	// plugins.
	RuncPath, NetworkPluginDir string
	// SandboxImage is the reference of the pause image; empty means
	// containerd's own default.
	SandboxImage string
	// Snapshotter is the socket of the snapshotter of a cell with an image cache,
	// and SnapshotterDir where it keeps images; empty means containerd's own.
	Snapshotter, SnapshotterDir string
	// RestrictOOMScoreAdj must be set where the machine may not lower its OOM
	// scores (no CAP_SYS_RESOURCE): no sandbox would start otherwise.
	RestrictOOMScoreAdj bool
}

// CacheSnapshotter is what containerd calls the snapshotter of a cell with an
// image cache.
const CacheSnapshotter = "kip"

// disabledPlugins are loaded by default and of no use in a cell. What is
// missing here skips itself, or is needed by the CRI plugin.
var disabledPlugins = []string{
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.native",
	"io.containerd.mount-handler.v1.erofs",
	"io.containerd.differ.v1.erofs",
	// Its directory lies in /opt, which is read-only in a cell.
	"io.containerd.internal.v1.opt",
	"io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp",
	// Restarts containers of its own kind; the kubelet restarts ours.
	"io.containerd.monitor.container.v1.restart",
	"io.containerd.image-verifier.v1.bindir",
	// Prometheus metrics that nobody scrapes; the kubelet's statistics come
	// from the shims.
	"io.containerd.monitor.task.v1.cgroups",
	"io.containerd.metrics.v1.grpc-prometheus",
	"io.containerd.metrics.v1.grpc-otel",
	"io.containerd.http.v1.pprof",
}

// Render returns the configuration file. It is format version 3, which every
// containerd 2.x reads.
func (c Config) Render() string {
	var b strings.Builder
	b.WriteString("version = 3\n")
	// The default imports /etc/containerd/conf.d: nothing of a base image may
	// change how a cell behaves.
	b.WriteString("imports = []\n")
	b.WriteString("disabled_plugins = [\n")
	for _, p := range disabledPlugins {
		fmt.Fprintf(&b, "  %s,\n", quote(p))
	}
	b.WriteString("]\n\n[grpc]\n")
	fmt.Fprintf(&b, "address = %s\n\n", quote(Socket))

	b.WriteString("[plugins.'io.containerd.cri.v1.images']\n")
	fmt.Fprintf(&b, "snapshotter = %s\n", quote(c.snapshotter()))
	if c.SandboxImage != "" {
		b.WriteString("[plugins.'io.containerd.cri.v1.images'.pinned_images]\n")
		fmt.Fprintf(&b, "sandbox = %s\n", quote(c.SandboxImage))
	}
	b.WriteString("[plugins.'io.containerd.cri.v1.images'.registry]\n")
	fmt.Fprintf(&b, "config_path = %s\n\n", quote(RegistryDir))

	b.WriteString("[plugins.'io.containerd.cri.v1.runtime']\n")
	fmt.Fprintf(&b, "restrict_oom_score_adj = %t\n", c.RestrictOOMScoreAdj)
	b.WriteString("[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n")
	b.WriteString("runtime_type = \"io.containerd.runc.v2\"\n")
	b.WriteString("[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n")
	fmt.Fprintf(&b, "BinaryName = %s\n", quote(c.RuncPath))
	b.WriteString("SystemdCgroup = false\n")
	b.WriteString("[plugins.'io.containerd.cri.v1.runtime'.cni]\n")
	fmt.Fprintf(&b, "bin_dirs = [%s]\n", quote(c.NetworkPluginDir))
	fmt.Fprintf(&b, "conf_dir = %s\n", quote(NetworkDir))
	// Saves the start of one more plugin per pod.
	b.WriteString("use_internal_loopback = true\n\n")

	b.WriteString("[plugins.'io.containerd.nri.v1.nri']\n")
	b.WriteString("disable = true\n")
	if c.Snapshotter != "" {
		fmt.Fprintf(&b, "\n[proxy_plugins.%s]\n", CacheSnapshotter)
		b.WriteString("type = \"snapshot\"\n")
		fmt.Fprintf(&b, "address = %s\n", quote(c.Snapshotter))
		// It has mounts with mapped IDs made, as overlayfs does.
		b.WriteString("capabilities = [\"remap-ids\"]\n")
		fmt.Fprintf(&b, "[proxy_plugins.%s.exports]\n", CacheSnapshotter)
		// The kubelet asks how full the disk is.
		fmt.Fprintf(&b, "root = %s\n", quote(c.SnapshotterDir))
		// It is told which image and layer a snapshot is for.
		b.WriteString("enable_remote_snapshot_annotations = \"true\"\n")
		b.WriteString("\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n")
		fmt.Fprintf(&b, "platform = %s\n", quote("linux/"+runtime.GOARCH))
		fmt.Fprintf(&b, "snapshotter = %s\n", quote(CacheSnapshotter))
	}
	return b.String()
}

func (c Config) snapshotter() string {
	if c.Snapshotter != "" {
		return CacheSnapshotter
	}
	return "overlayfs"
}

// Write writes the configuration file below root, "/" in a cell.
func (c Config) Write(root string) error {
	return writeFile(filepath.Join(root, ConfigFile), c.Render())
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	return nil
}

// quote writes a TOML string. Go's escapes are TOML's for the printable ASCII
// that paths, references and URLs consist of.
func quote(s string) string { return strconv.QuoteToASCII(s) }
