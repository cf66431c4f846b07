package instancetype

import (
	"strconv"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Offering is something that can be launched, and what it costs.
type Offering struct {
	InstanceType string               `json:"instanceType"`
	Zone         string               `json:"zone"` // "" means any zone: the catalogue knows no zones of the region
	CapacityType v1beta1.CapacityType `json:"capacityType"`
	Architecture string               `json:"architecture"` // amd64 or arm64
	VCPUs        int32                `json:"vcpus"`
	MemoryMiB    int64                `json:"memoryMiB"`
	GPUs         int32                `json:"gpus,omitempty"`

	// HourlyUSD is Cost.Total().
	HourlyUSD float64 `json:"hourlyUSD"`
	Cost      Cost    `json:"cost"`
}

// Price is HourlyUSD as text, without noise digits: what belongs into
// LaunchStatus.HourlyUSD.
func (o Offering) Price() string {
	return strconv.FormatFloat(o.HourlyUSD, 'f', -1, 64)
}

// StoppedPrice is the same of an instance that is kept stopped, of which no more
// than the volume is paid for.
func (o Offering) StoppedPrice() string {
	return strconv.FormatFloat(round(o.Cost.Volume), 'f', -1, 64)
}

// Key names the offering, for Unavailable.
func (o Offering) Key() Key {
	return Key{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: o.CapacityType}
}

// Options are what the choice depends on besides the pod and the catalogue.
// The zero value considers every zone of the region and no shortage.
type Options struct {
	// Zones are those in which an instance can be launched, because there is a
	// subnet, the preferred first: prices do not tell zones apart. Empty means
	// all zones of the region.
	Zones []string

	// Unavailable holds offerings that were refused a short while ago, as of
	// Now. May be nil.
	Unavailable *Unavailable
	Now         time.Time

	// PublicIPv4 adds the price of a public address.
	PublicIPv4 bool

	// DefaultVolumeGiB is the size of the root volume of pods that name none;
	// 0 means DefaultVolumeGiB.
	DefaultVolumeGiB int32

	// Limit keeps the first offerings only; 0 keeps all of them, of which
	// there may be thousands.
	Limit int
}
