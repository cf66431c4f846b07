package instancetype

import (
	"math"
	"strings"
)

// Prices that are not the instance's own.
const (
	// hoursPerMonth is how the cloud turns a monthly price into an hourly one.
	hoursPerMonth = 730

	// publicIPv4USD is the price of a public address per hour, in all
	// commercial regions since 2024-02.
	publicIPv4USD = 0.005

	// defaultGP3USD is the price of a GiB of gp3 volume per month where the
	// region's own is unknown. It is the same for all offerings of a region,
	// so it moves the price shown, never the order.
	defaultGP3USD = 0.08

	// Surplus CPU credits per vCPU-hour, Linux, from Amazon's page on EC2
	// on-demand prices ("T2/T3/T4g unlimited mode pricing").
	surplusUSD         = 0.05
	surplusGravitonUSD = 0.04
)

// DefaultVolumeGiB is the root volume's size where neither pod nor
// configuration says one: the configuration's own default.
const DefaultVolumeGiB = 10

// Cost is the price of an offering, in USD per hour, by what it is paid for.
type Cost struct {
	Instance   float64 `json:"instance"`
	Surplus    float64 `json:"surplusCredits,omitempty"`
	Volume     float64 `json:"volume"`
	PublicIPv4 float64 `json:"publicIPv4,omitempty"`

	// Estimated says that the region's price of the instance is not known and
	// another stands for it: for spot the on-demand price, which it does not
	// exceed; for a type asked for by name the price in us-east-1.
	Estimated bool `json:"estimated,omitempty"`
}

// Total is the sum.
func (c Cost) Total() float64 {
	return float64(c.micros()) / 1e6
}

// micros is the sum in millionths of a USD: equal prices compare equal.
func (c Cost) micros() int64 {
	return micros(c.Instance) + micros(c.Surplus) + micros(c.Volume) + micros(c.PublicIPv4)
}

func micros(usd float64) int64 { return int64(math.Round(usd * 1e6)) }

// round drops what is below a millionth of a USD.
func round(usd float64) float64 { return float64(micros(usd)) / 1e6 }

// surplus is what the pod's CPU request costs by the hour above the baseline
// of a burstable type: such cells run in unlimited mode, since a request is a
// promise, and the promise is taken to be used in full. Spot instances pay the
// same. cpuMillis is the pod's request.
func (t *InstanceType) surplus(cpuMillis int64) float64 {
	if !t.Burstable {
		return 0
	}
	above := float64(cpuMillis+CellCPUMillis)/1000 - t.BaselineVCPUs
	if above <= 0 {
		return 0
	}
	if strings.HasPrefix(t.Name, "t4g.") {
		return above * surplusGravitonUSD
	}
	return above * surplusUSD
}
