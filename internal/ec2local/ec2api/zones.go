package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeAvailabilityZonesRequest struct {
	dryRun
	Names   []string `query:"ZoneName"`
	IDs     []string `query:"ZoneId"`
	Filters []filter `query:"Filter"`
	All     bool     `query:"AllAvailabilityZones"`
}

type describeAvailabilityZonesAnswer struct {
	query.Answer
	Zones query.Set[zone] `xml:"availabilityZoneInfo"`
}

type zone struct {
	OptInStatus        string              `xml:"optInStatus"`
	Messages           query.Set[struct{}] `xml:"messageSet"`
	ID                 string              `xml:"zoneId"`
	Name               string              `xml:"zoneName"`
	Region             string              `xml:"regionName"`
	State              string              `xml:"zoneState"`
	Group              string              `xml:"groupName"`
	NetworkBorderGroup string              `xml:"networkBorderGroup"`
	Type               string              `xml:"zoneType"`
}

func (a *API) describeAvailabilityZones(in *describeAvailabilityZonesRequest) (*describeAvailabilityZonesAnswer, error) {
	type az = cloud.Zone
	name, id := func(z az) string { return z.Name }, func(z az) string { return z.ID }
	zones := a.cloud.Zones()
	for _, by := range []struct {
		wanted []string
		of     func(az) string
	}{{in.Names, name}, {in.IDs, id}} {
		var missing string
		if zones, missing = named(zones, by.wanted, by.of); missing != "" {
			return nil, query.Errorf("InvalidParameterValue", "Invalid availability zone: [%s]", missing)
		}
	}
	region := a.cloud.Region()
	zones, err := selectBy(zones, in.Filters, fields[az]{
		"group-name":    constant[az](region),
		"message":       constant[az](),
		"opt-in-status": constant[az]("opt-in-not-required"),
		"region-name":   constant[az](region),
		"state":         constant[az]("available"),
		"zone-id":       one(id),
		"zone-name":     one(name),
		"zone-type":     constant[az]("availability-zone"),
	}, nil)
	if err != nil {
		return nil, err
	}
	var answer describeAvailabilityZonesAnswer
	for _, z := range zones {
		answer.Zones.Items = append(answer.Zones.Items, zone{
			OptInStatus: "opt-in-not-required", ID: z.ID, Name: z.Name, Region: region, State: "available",
			Group: region, NetworkBorderGroup: region, Type: "availability-zone",
		})
	}
	return &answer, nil
}

// named returns the zones that are wanted, all if none is, or one that is wanted but does not exist.
func named(zones []cloud.Zone, wanted []string, of func(cloud.Zone) string) (found []cloud.Zone, missing string) {
	if len(wanted) == 0 {
		return zones, ""
	}
	left := map[string]bool{}
	for _, w := range wanted {
		left[w] = true
	}
	for _, z := range zones {
		if left[of(z)] {
			found = append(found, z)
			delete(left, of(z))
		}
	}
	for _, w := range wanted {
		if left[w] {
			return nil, w
		}
	}
	return found, ""
}
