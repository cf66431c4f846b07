package cloud

import (
	"net/netip"
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// State is an instance's state in EC2's words.
type State string

// The states of an instance.
const (
	Pending      State = "pending"
	Running      State = "running"
	ShuttingDown State = "shutting-down"
	Terminated   State = "terminated"
	Stopping     State = "stopping"
	Stopped      State = "stopped"
)

// What happens to an instance when its machine ends by itself.
const (
	ShutdownStop      = "stop"
	ShutdownTerminate = "terminate"
)

// Reservation is what one launch made.
type Reservation struct {
	ID string
	// Seq orders reservations by age.
	Seq int64
	// ClientToken and RequestHash make the launch repeatable: the same token with the same request is the same
	// reservation. The token may be empty.
	ClientToken, RequestHash string
	// Instances are the IDs of the instances, by launch index.
	Instances []string
}

// Instance is one instance with its only volume and its only interface.
type Instance struct {
	ID            string
	ReservationID string
	// Seq and Index order instances by age.
	Seq   int64
	Index int

	ImageID, ImageDir  string
	Type               string
	Architecture       string
	VCPUs              int32
	MemoryMiB          int64
	GPUs               int
	Nitro, Burstable   bool
	Zone               string
	LaunchTime         time.Time // when it was started last
	StartedAgain       bool
	ClientToken        string
	KeyName            string
	UserData           []byte
	ProfileARN         string
	ShutdownBehaviour  string
	CPUCredits         string
	EBSOptimized       bool
	DetailedMonitoring bool
	APITermination     bool // false: TerminateInstances is refused
	Metadata           MetadataOptions
	Spot               *Spot
	Tags               Tags

	State State
	// Since is when the state was entered.
	Since time.Time
	// Reason says why the instance is in its state; empty in the course of a normal life.
	Reason Reason
	// Transition is what EC2 calls the reason for the most recent state transition, such as
	// "User initiated (2006-01-02 15:04:05 GMT)".
	Transition string

	// Checks are what the status checks find, as far as that was scripted.
	Checks Checks
	// Events are what is scheduled for the instance.
	Events []Event

	Interface Interface
	Volume    Volume
}

// Reason says why an instance is in its state.
type Reason struct{ Code, Message string }

// Spot says that an instance was launched on the spot market.
type Spot struct {
	RequestID string
	MaxPrice  string
	// InterruptionBehaviour is what an interruption does to the instance: terminate.
	InterruptionBehaviour string
	// Noticed and Action are when an interruption was announced and for when; zero when there is none.
	Noticed, Action time.Time
	// Rebalance is when a rebalance was recommended; zero when it was not.
	Rebalance time.Time
}

// MetadataOptions are how an instance reaches its metadata.
type MetadataOptions struct {
	Enabled          bool
	TokensRequired   bool
	ResponseHopLimit int
	Tags             bool
}

// Interface is an instance's network interface.
type Interface struct {
	ID, AttachmentID string
	Description      string
	SubnetID         string
	MAC              string
	Primary          netip.Addr
	Secondary        []netip.Addr
	// Public is an address that exists on paper only: nothing routes it. It is invalid when there is none, as while the
	// instance is stopped.
	Public netip.Addr
	// AutoPublic: it gets one whenever the instance starts.
	AutoPublic      bool
	Groups          []string
	SourceDestCheck bool
	Attached        time.Time
	Tags            Tags
}

// Addresses returns all private addresses, the primary first.
func (i *Interface) Addresses() []netip.Addr {
	return append([]netip.Addr{i.Primary}, i.Secondary...)
}

// Volume is an instance's root volume.
type Volume struct {
	ID         string
	Device     string
	SizeGiB    int
	Type       string
	IOPS       int
	Throughput int
	Encrypted  bool
	KMSKeyID   string
	SnapshotID string
	Created    time.Time
	Tags       Tags
	// Modification is the last one; nil if there was none.
	Modification *Modification
}

// HasMachine tells whether the instance still has its machine, disk and addresses: true until it is terminated.
func (i *Instance) HasMachine() bool { return i.State != Terminated }

// spec is the machine that stands for the instance.
func (c *Cloud) spec(i *Instance) machine.Spec {
	return machine.Spec{
		ID: i.ID, Hostname: HostName(i.Interface.Primary), Image: i.ImageDir,
		VCPUs: float64(i.VCPUs), MemoryMiB: i.MemoryMiB, GPUs: i.GPUs, RootVolumeGiB: int64(i.Volume.SizeGiB),
		NIC: i.nic(c.Subnet(i.Interface.SubnetID)),
	}
}

// nic is the machine's end of the instance's interface.
func (i *Instance) nic(subnet Subnet) machine.NIC {
	return machine.NIC{
		MAC:          i.Interface.MAC,
		Device:       device(i.ID),
		PrimaryIP:    netip.PrefixFrom(i.Interface.Primary, subnet.CIDR.Bits()),
		SecondaryIPs: slices.Clone(i.Interface.Secondary),
		Gateway:      subnet.CIDR.Addr().Next(),
	}
}

// device is the name of the outer end of an instance's interface. Names of devices are short.
func device(instance string) string { return "i-" + instance[len(instance)-12:] }
