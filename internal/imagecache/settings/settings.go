// Package settings is what the agent tells kip-snapshotter.
package settings

// LayersDescriptor is the program's descriptor of the FUSE file system that it
// serves.
const LayersDescriptor = 3

// Settings are a file, in JSON, that is the program's one argument.
type Settings struct {
	// Socket is where containerd asks, Agent where the agent answers.
	Socket string `json:"socket"`
	Agent  string `json:"agent"`
	// Dir keeps snapshots and fetched layers.
	Dir string `json:"dir"`
	// Layers is where the FUSE file system is mounted, and Share where the cache
	// is.
	Layers string `json:"layers"`
	Share  string `json:"share"`
	// Uncached are images that Kip is not asked about.
	Uncached []string `json:"uncached,omitempty"`
	// Mirrors are endpoints by the registry that they stand in for; "_default" is
	// every one that is not named, as in containerd's configuration.
	Mirrors map[string][]string `json:"mirrors,omitempty"`
}
