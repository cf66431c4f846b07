package kubelet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Files and ports of a cell.
const (
	dir        = "/etc/kip/kubernetes"
	ConfigFile = dir + "/kubelet.json"
	Kubeconfig = dir + "/kubelet.kubeconfig"
	ClientCA   = dir + "/client-ca.crt"
	ServerCert = dir + "/kubelet.crt"
	ServerKey  = dir + "/kubelet.key"

	// Port is where the kubelet serves its own API, on the loopback only.
	Port = 10250
	// DataDir is the kubelet's root directory.
	DataDir = "/var/lib/kubelet"
	// PluginDir is where the kubelet and its device plugins find each other.
	PluginDir = DataDir + "/device-plugins"
)

// Node is what the kubelet must know about the node it is to be.
type Node struct {
	// Name is the virtual node's name, the same in all cells.
	Name string
	// Address is the cell's primary address.
	Address netip.Addr
	// DNSServers and DNSDomain are the cluster's.
	DNSServers []string
	DNSDomain  string
	// ResolverFile is the resolv.conf of pods with dnsPolicy Default.
	ResolverFile string
	// ProxyMode is kube-proxy's: nftables or iptables.
	ProxyMode string
	// MaxContainerLogMiB is the size at which a container's log is rotated.
	MaxContainerLogMiB int32
	// MayLowerOOMScore says whether the kubelet may protect itself from the
	// kernel's out-of-memory killer. One that may not, and tries, starts later.
	MayLowerOOMScore bool
	// RuntimeSocket is containerd's.
	RuntimeSocket string
	// CredentialProvider is the agent's own program, which the kubelet runs to
	// get the credentials of a registry.
	CredentialProvider string
}

// configuration is the part of kubelet.config.k8s.io/v1beta1
// KubeletConfiguration that a cell sets, written by hand because the agent would
// pay for the real types with megabytes. A test holds it against them.
type configuration struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	RegisterNode             bool     `json:"registerNode"`
	ContainerRuntimeEndpoint string   `json:"containerRuntimeEndpoint"`
	ClusterDNS               []string `json:"clusterDNS,omitempty"`
	ClusterDomain            string   `json:"clusterDomain,omitempty"`
	ResolvConf               string   `json:"resolvConf"`
	VolumePluginDir          string   `json:"volumePluginDir"`

	Address            string         `json:"address"`
	Port               int            `json:"port"`
	TLSCertFile        string         `json:"tlsCertFile"`
	TLSPrivateKeyFile  string         `json:"tlsPrivateKeyFile"`
	TLSMinVersion      string         `json:"tlsMinVersion"`
	RotateCertificates bool           `json:"rotateCertificates"`
	HealthzPort        int            `json:"healthzPort"`
	Authentication     authentication `json:"authentication"`
	Authorization      authorization  `json:"authorization"`

	ContentType               string `json:"contentType"`
	EnableProfilingHandler    bool   `json:"enableProfilingHandler"`
	EnableDebugFlagsHandler   bool   `json:"enableDebugFlagsHandler"`
	EnableSystemLogHandler    bool   `json:"enableSystemLogHandler"`
	EnableContentionProfiling bool   `json:"enableContentionProfiling"`

	SyncFrequency             string `json:"syncFrequency"`
	NodeStatusUpdateFrequency string `json:"nodeStatusUpdateFrequency"`
	NodeStatusMaxImages       int    `json:"nodeStatusMaxImages"`

	CgroupDriver           string   `json:"cgroupDriver"`
	FailCgroupV1           bool     `json:"failCgroupV1"`
	FailSwapOn             bool     `json:"failSwapOn"`
	OOMScoreAdj            int      `json:"oomScoreAdj"`
	EnforceNodeAllocatable []string `json:"enforceNodeAllocatable"`
	ProtectKernelDefaults  bool     `json:"protectKernelDefaults"`
	// Hints for iptables-based tools, of which a cell has none.
	MakeIPTablesUtilChains bool `json:"makeIPTablesUtilChains"`

	EvictionHard                map[string]string `json:"evictionHard"`
	ImageGCHighThresholdPercent int               `json:"imageGCHighThresholdPercent"`

	SerializeImagePulls bool `json:"serializeImagePulls"`
	RegistryPullQPS     int  `json:"registryPullQPS"`

	ContainerLogMaxSize  string `json:"containerLogMaxSize"`
	ContainerLogMaxFiles int    `json:"containerLogMaxFiles"`
}

type authentication struct {
	Anonymous enabled `json:"anonymous"`
	Webhook   enabled `json:"webhook"`
	X509      x509    `json:"x509"`
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type x509 struct {
	ClientCAFile string `json:"clientCAFile"`
}

type authorization struct {
	Mode string `json:"mode"`
}

func (n Node) configuration() configuration {
	logMiB := n.MaxContainerLogMiB
	if logMiB == 0 {
		logMiB = 50
	}
	oomScoreAdj := 0
	if n.MayLowerOOMScore {
		oomScoreAdj = -999
	}
	return configuration{
		APIVersion: "kubelet.config.k8s.io/v1beta1",
		Kind:       "KubeletConfiguration",

		// The node exists: it is Kip's, and many kubelets are it.
		RegisterNode:             false,
		ContainerRuntimeEndpoint: "unix://" + n.RuntimeSocket,
		ClusterDNS:               n.DNSServers,
		ClusterDomain:            n.DNSDomain,
		ResolvConf:               n.ResolverFile,
		// The default lies in /usr, which is read-only in a cell.
		VolumePluginDir: DataDir + "/volume-plugins",

		// The agent is the only client, it comes over the loopback, and its
		// certificate is the whole authorization: Kip has asked the API server
		// before it asks the agent.
		Address:           "127.0.0.1",
		Port:              Port,
		TLSCertFile:       ServerCert,
		TLSPrivateKeyFile: ServerKey,
		TLSMinVersion:     "VersionTLS13",
		Authentication:    authentication{X509: x509{ClientCAFile: ClientCA}},
		Authorization:     authorization{Mode: "AlwaysAllow"},

		// What Kip's gateway reads and changes on the way.
		ContentType: "application/json",

		// How soon a change of a mounted ConfigMap or Secret is in the pod's
		// files: this at most, as changes of the objects are watched.
		SyncFrequency:             "10s",
		NodeStatusUpdateFrequency: "10s",
		NodeStatusMaxImages:       0,

		CgroupDriver: "cgroupfs",
		OOMScoreAdj:  oomScoreAdj,
		// The machine holds one pod that was chosen for it: nothing to divide.
		EnforceNodeAllocatable: []string{},

		// Better an eviction that says so than a full disk or the kernel's
		// choice of a victim. Absolute values: on a container cell the file
		// system is the host's, and a percentage of that means nothing.
		EvictionHard: map[string]string{
			"memory.available":  "32Mi",
			"nodefs.available":  "256Mi",
			"imagefs.available": "256Mi",
		},
		// Never: the images are those of the pod, and go with the cell.
		ImageGCHighThresholdPercent: 100,

		// Pulls are the longest part of a start; nothing else wants the network.
		SerializeImagePulls: false,
		RegistryPullQPS:     0,

		ContainerLogMaxSize:  fmt.Sprintf("%dMi", logMiB),
		ContainerLogMaxFiles: 3,
	}
}

// Write writes the kubelet's configuration below root, "/" in a cell.
func (n Node) Write(root string) error {
	content, err := json.MarshalIndent(n.configuration(), "", "  ")
	if err != nil {
		return fmt.Errorf("writing the kubelet's configuration: %w", err)
	}
	if err := writeFile(filepath.Join(root, ConfigFile), append(content, '\n'), 0o644); err != nil {
		return err
	}
	return n.writeCredentialProvider(root)
}

// Args are the kubelet's command line.
func (n Node) Args() []string {
	return []string{
		"--config=" + ConfigFile,
		"--kubeconfig=" + Kubeconfig,
		"--root-dir=" + DataDir,
		"--hostname-override=" + n.Name,
		"--node-ip=" + n.Address.String(),
		"--image-credential-provider-config=" + credentialProviderFile,
		"--image-credential-provider-bin-dir=" + filepath.Dir(n.CredentialProvider),
	}
}

// writeFile writes a file that only root reads if mode says so, and never
// leaves half of one: the kubelet may be starting while it is written anew.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
