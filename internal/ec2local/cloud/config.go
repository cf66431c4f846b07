package cloud

import (
	"io"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Config is what a Cloud is made of. All fields are needed unless they say otherwise.
type Config struct {
	// Dir is where the state is kept. It is made if missing.
	Dir string
	// Images is the folder that holds one folder per image. It may be missing or empty.
	Images string
	// Region is the region's name, such as us-west-2.
	Region string
	// Zones are the names of the availability zones; each gets one subnet.
	Zones []string
	// AccountID is the number of the only account.
	AccountID string
	// VPC is the address range of the only VPC, from a /16 to a /20. Each subnet gets a sixteenth of it.
	VPC netip.Prefix
	// Hypervisor runs the machines.
	Hypervisor machine.Hypervisor
	// Network enforces security groups and route tables; if nil, nobody does.
	Network machine.Network
	// Types looks an instance type up.
	Types func(name string) (Type, bool)
	// SpotMarket is what spot instances cost; there need not be one.
	SpotMarket SpotMarket
	// Delays are how long things take besides the work itself.
	Delays Delays
	// Lag is how far reads are behind at first; see SetLag.
	Lag Lag
	// Clock tells the time.
	Clock clock.WithTicker
	// Random is where identifiers come from; crypto/rand if nil.
	Random io.Reader
	// Log takes what happens.
	Log *slog.Logger
}

// Delays are how long instances stay in a state besides the work that is done in it. Zero means no longer than that.
type Delays struct {
	// Boot is the time in pending before the machine is started.
	Boot time.Duration
	// Terminate and Stop are the least time in shutting-down and stopping.
	Terminate, Stop time.Duration
	// Checks is how long status checks of a new instance are initializing; some minutes in EC2.
	Checks time.Duration
	// ModifyVolume is how long a modification of a volume takes.
	ModifyVolume time.Duration
	// Retention is how long a terminated instance can still be seen. EC2's is about an hour.
	Retention time.Duration
}

// Type is what the cloud needs to know of an instance type.
type Type struct {
	Name string
	// VCPUs and MemoryMiB are the size of its machines.
	VCPUs     int32
	MemoryMiB int64
	// GPUs is how many they have of NVIDIA's.
	GPUs int
	// Architecture in EC2's words: x86_64 or arm64.
	Architecture string
	// Nitro is false for the older types that run on Xen.
	Nitro bool
	// Burstable types earn CPU credits.
	Burstable bool
	// Spot tells whether the type can be launched on the spot market.
	Spot bool
	// AddressesPerInterface is how many IPv4 addresses an interface may have; 0 if unknown.
	AddressesPerInterface int
}
