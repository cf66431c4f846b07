package ec2local

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// CatalogueSpotMarket sells what Kip's own catalogue knows the price of in a region.
func CatalogueSpotMarket(catalogue *instancetype.Catalogue, region string) (cloud.SpotMarket, error) {
	r, err := catalogue.Region(region)
	if err != nil {
		return cloud.SpotMarket{}, err
	}
	return cloud.SpotMarket{Types: catalogue.TypeNames(), USD: r.SpotUSD}, nil
}

// CatalogueTypes looks instance types up in Kip's own catalogue.
func CatalogueTypes(catalogue *instancetype.Catalogue) func(string) (cloud.Type, bool) {
	// EC2's words for architectures.
	architectures := map[string]string{instancetype.AMD64: "x86_64", instancetype.ARM64: "arm64"}
	return func(name string) (cloud.Type, bool) {
		t, ok := catalogue.Type(name)
		if !ok {
			return cloud.Type{}, false
		}
		gpus := t.PodCapacity()[instancetype.ResourceGPU]
		return cloud.Type{
			Name: t.Name, VCPUs: t.VCPUs, MemoryMiB: t.MemoryMiB, GPUs: int(gpus.Value()), Architecture: architectures[t.Architecture],
			Nitro: t.Hypervisor == "nitro" || t.BareMetal, Burstable: t.Burstable, Spot: t.Spot,
			AddressesPerInterface: int(t.IPv4PerENI),
		}, true
	}
}
