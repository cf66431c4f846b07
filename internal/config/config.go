// Package config reads provider.yaml, the one file that says which cloud Kip
// uses, how large its virtual node looks and how its cells are made.
//
// The key names are those that users of Kip know since its first version. An
// unknown key is an error that names the key: a setting that is silently
// ignored is worse than one that is refused.
package config

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config is the content of provider.yaml after defaults were set.
type Config struct {
	Cloud   Cloud   `json:"cloud"`
	Kubelet Kubelet `json:"kubelet"`
	Cells   Cells   `json:"cells"`
}

// Cloud names the cloud; exactly one must be given. Today there is one.
type Cloud struct {
	AWS *AWS `json:"aws,omitempty"`
}

// AWS says where on AWS cells are launched and with which credentials.
type AWS struct {
	Region string `json:"region"`

	// AccessKeyID and SecretAccessKey are for tests and small set-ups. Empty
	// means the SDK's default chain: on EKS, the role of the service account.
	AccessKeyID     string `json:"accessKeyID,omitempty"`
	SecretAccessKey string `json:"secretAccessKey,omitempty"`

	// VPCID defaults to the VPC of the subnets.
	VPCID string `json:"vpcID,omitempty"`

	// SubnetID is one subnet ID or several separated by commas, or tags that
	// the subnets must have ("tag:Name=cells-*"). Empty means every subnet of
	// the VPC. See ParseSubnets.
	SubnetID string `json:"subnetID,omitempty"`

	// EndpointURL replaces EC2's endpoint, for an EC2-compatible one.
	EndpointURL string `json:"endpointURL,omitempty"`

	// InsecureTLSSkipVerify accepts any certificate of that endpoint.
	InsecureTLSSkipVerify bool `json:"insecureTLSSkipVerify,omitempty"`

	// Marketplace turns metering on.
	Marketplace *Marketplace `json:"marketplace,omitempty"`
}

// Marketplace is a product of AWS Marketplace by which the use of Kip is paid.
type Marketplace struct {
	// ProductCode and PublicKeyVersion are the seller's.
	ProductCode      string `json:"productCode"`
	PublicKeyVersion int32  `json:"publicKeyVersion,omitempty"`
	// Dimension is the product's unit, of which a cell-hour is one.
	Dimension string `json:"dimension,omitempty"`
}

// Kubelet says what the virtual node looks like in the cluster.
type Kubelet struct {
	// CPU, Memory and Pods are the virtual node's capacity: how much work the
	// scheduler may give to Kip. Capacity adds further resources or overrides.
	CPU      resource.Quantity   `json:"cpu,omitempty"`
	Memory   resource.Quantity   `json:"memory,omitempty"`
	Pods     resource.Quantity   `json:"pods,omitempty"`
	Capacity corev1.ResourceList `json:"capacity,omitempty"`

	// Labels are added to the virtual node.
	Labels map[string]string `json:"labels,omitempty"`

	// ClusterDNS are the addresses of the cluster's DNS servers; ClusterDomain
	// its domain, "cluster.local" by default.
	ClusterDNS    []string `json:"clusterDNS,omitempty"`
	ClusterDomain string   `json:"clusterDomain,omitempty"`
}

// Cells says how instances are made.
type Cells struct {
	// Architectures are those of cells of pods that name none: amd64, arm64 or
	// both. The first is used unless all images of a pod are made for another
	// one too.
	Architectures []string `json:"architectures,omitempty"`

	// BootImageSpec selects the machine image; the newest match wins.
	BootImageSpec BootImageSpec `json:"bootImageSpec,omitempty"`

	// Software is where instances of a stock image get what that lacks of a
	// cell, one for each architecture; none if the image has it all.
	Software []Software `json:"software,omitempty"`

	// DefaultInstanceType is for pods that say nothing about type or resources.
	DefaultInstanceType string `json:"defaultInstanceType,omitempty"`

	// DefaultLaunchType is how instances of pods are bought that do not say it:
	// on-demand, spot or spot-preferred.
	DefaultLaunchType string `json:"defaultLaunchType,omitempty"`

	// StandbyCells are launched before there are pods for them.
	StandbyCells []StandbyCells `json:"standbyCells,omitempty"`

	// StandbyPriceTolerance is how many percent more than what would be launched
	// for a pod a standby cell may cost that is taken instead.
	StandbyPriceTolerance int32 `json:"standbyPriceTolerance,omitempty"`

	// DefaultVolumeSize is the root volume's size ("15Gi").
	DefaultVolumeSize resource.Quantity `json:"defaultVolumeSize,omitempty"`

	// ExtraCIDRs may reach cells besides the VPC's own.
	ExtraCIDRs []string `json:"extraCIDRs,omitempty"`

	// ExtraSecurityGroups are IDs of groups that every cell gets.
	ExtraSecurityGroups []string `json:"extraSecurityGroups,omitempty"`

	// CloudInitFile is a file of user data for cloud-init, which every cell gets
	// beside Kip's own.
	CloudInitFile string `json:"cloudInitFile,omitempty"`

	// Nametag is the value of the tag KipNametag and the start of instance names.
	Nametag string `json:"nametag,omitempty"`

	// PrivateIPOnly: cells get no public address.
	PrivateIPOnly bool `json:"privateIPOnly,omitempty"`

	// DefaultIAMPermissions is the ARN of the instance profile that cells get
	// by default.
	DefaultIAMPermissions string `json:"defaultIAMPermissions,omitempty"`

	// BootTimeout is how long an instance may take from launch to enrolment.
	BootTimeout metav1.Duration `json:"bootTimeout,omitempty"`

	// PowerOffAfter is how long Kip may be away until a cell in which no pod
	// should run switches itself off; 0 means for ever.
	PowerOffAfter *metav1.Duration `json:"powerOffAfter,omitempty"`

	// Limits are what Kip may have in the cloud at one time.
	Limits Limits `json:"limits,omitempty"`

	// GarbageCollection is of what nothing accounts for.
	GarbageCollection GarbageCollection `json:"garbageCollection,omitempty"`

	// StatusInterval is how often, in seconds, the cells' signs of life are
	// looked over.
	StatusInterval int32 `json:"statusInterval,omitempty"`

	// Healthcheck says when a cell is given up.
	Healthcheck Healthcheck `json:"healthcheck,omitempty"`

	// SandboxImage is the pause image that cells use.
	SandboxImage string `json:"sandboxImage,omitempty"`

	// ImageCache is where cells find the images that the image cache has; nil if
	// there is none.
	ImageCache *ImageCache `json:"imageCache,omitempty"`

	// RegistryMirrors are asked before the registries that images name.
	RegistryMirrors []RegistryMirror `json:"registryMirrors,omitempty"`
}

// GarbageCollection ends instances of this Kip's that no Cell accounts for, and
// removes what instances left behind.
type GarbageCollection struct {
	// DryRun tells of them and does nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// Limits bound what Kip launches: whoever makes pods without end does not spend
// without end. What is not given is not limited.
type Limits struct {
	// Instances is how many there may be.
	Instances *int32 `json:"instances,omitempty"`
	// HourlyUSD is what they may cost together in an hour.
	HourlyUSD *resource.Quantity `json:"hourlyUSD,omitempty"`
	// LaunchesPerMinute is how many may be launched in any minute.
	LaunchesPerMinute *int32 `json:"launchesPerMinute,omitempty"`
	// Namespaces are further limits, of the pods of a namespace.
	Namespaces []NamespaceLimits `json:"namespaces,omitempty"`
}

// NamespaceLimits bound the instances of one namespace's pods.
type NamespaceLimits struct {
	// Name is the namespace; "*" means each one that is not named.
	Name      string             `json:"name"`
	Instances *int32             `json:"instances,omitempty"`
	HourlyUSD *resource.Quantity `json:"hourlyUSD,omitempty"`
}

// StandbyCells is how many cells of one type wait for pods.
type StandbyCells struct {
	InstanceType string `json:"instanceType"`
	Count        int32  `json:"count"`
	Spot         bool   `json:"spot,omitempty"`
	// Stopped ones have their instance started when a pod takes them.
	Stopped bool `json:"stopped,omitempty"`
}

// Healthcheck is whose word counts when it is decided that a cell works no
// more: its own signs of life, or what the cloud finds out about its instance.
// At most one is given; Status is the default.
type Healthcheck struct {
	Status   *StatusCheck   `json:"status,omitempty"`
	CloudAPI *CloudAPICheck `json:"cloudAPI,omitempty"`
}

// StatusCheck gives up cells that are silent.
type StatusCheck struct {
	// HealthyTimeout is for how long, in seconds; 0 for ever.
	HealthyTimeout *int32 `json:"healthyTimeout,omitempty"`
}

// CloudAPICheck gives up cells whose instances the cloud finds impaired.
type CloudAPICheck struct {
	// HealthyTimeout is for how long, in seconds; 0 for ever.
	HealthyTimeout *int32 `json:"healthyTimeout,omitempty"`
	// Interval is how often the cloud is asked, in seconds.
	Interval int32 `json:"interval,omitempty"`
}

// Software is an archive for cells of one architecture, and what it must be.
type Software struct {
	Architecture string `json:"architecture"`
	URL          string `json:"url"`
	SHA256       string `json:"sha256"`
}

// ImageCache is a share that the image cache's controller fills.
type ImageCache struct {
	// Endpoint is the NFS server and the path that it exports ("server:/path"),
	// or the directory where cells have the share already ("/path").
	Endpoint string `json:"endpoint"`
}

// RegistryMirror is an endpoint asked first for the images of some hosts.
type RegistryMirror struct {
	// Hosts are registry hosts ("docker.io"); "_default" means every other.
	Hosts []string `json:"hosts"`
	// Endpoint is the mirror's URL.
	Endpoint string `json:"endpoint"`
}

// BootImageSpec selects images as EC2's DescribeImages does. ImageIDs,
// Owners and ExecutableUsers are space or comma separated lists; Filters is a
// space separated list of name=value pairs.
type BootImageSpec struct {
	Owners          string `json:"owners,omitempty"`
	ExecutableUsers string `json:"executableUsers,omitempty"`
	Filters         string `json:"filters,omitempty"`
	ImageIDs        string `json:"imageIDs,omitempty"`
}

// The defaults, each with its reason.
const (
	// defaultVolumeSize holds the cell's own files (about 1 GiB) and ordinary
	// images; gp3 costs USD 0.08 per GiB and month in us-east-1.
	defaultVolumeSize = "10Gi"
	// defaultBootTimeout: an EC2 instance that did not boot after five minutes
	// does not boot.
	defaultBootTimeout = 5 * time.Minute
	// defaultPowerOffAfter is longer than an outage that somebody notices. A pod
	// that ended while Kip was away is taken for a lost one after that.
	defaultPowerOffAfter = 24 * time.Hour
	// minPowerOffAfter: a restart or a failover takes seconds.
	minPowerOffAfter = 10 * time.Minute
	// defaultStatusInterval, defaultStatusTimeout, defaultCloudAPITimeout and
	// defaultCloudAPIInterval are Kip 1's, in seconds.
	defaultStatusInterval   = 5
	defaultStatusTimeout    = 90
	defaultCloudAPITimeout  = 180
	defaultCloudAPIInterval = 60
	// minHealthyTimeout: kubelets renew their lease every 10 seconds, and a
	// connection that broke is noticed within 15.
	minHealthyTimeout = 30
	// minCloudAPIInterval is Kip 1's. EC2's checks themselves run once a minute.
	minCloudAPIInterval  = 10
	defaultClusterDomain = "cluster.local"
	defaultDimension     = "CellHours"
	// defaultLaunchType: a spot instance may be taken away, which a pod has to
	// be made for.
	defaultLaunchType = "on-demand"
	defaultNametag    = "kip"
	// defaultSandboxImage is what the pause image is called by Kubernetes 1.36.
	defaultSandboxImage = "registry.k8s.io/pause:3.10.1"
	// The virtual node's size bounds what the scheduler gives to Kip, not what
	// it costs; instances are launched for pods only.
	defaultCPU    = "5000"
	defaultMemory = "20Ti"
	defaultPods   = "5000"
)
