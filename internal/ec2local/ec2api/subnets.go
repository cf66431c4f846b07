package ec2api

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeSubnetsRequest struct {
	dryRun
	paging
	IDs     []string `query:"SubnetId"`
	Filters []filter `query:"Filter"`
}

type describeSubnetsAnswer struct {
	query.Answer
	Subnets   query.Set[subnet] `xml:"subnetSet"`
	NextToken string            `xml:"nextToken,omitempty"`
}

type subnet struct {
	ID            string              `xml:"subnetId"`
	ARN           string              `xml:"subnetArn"`
	State         string              `xml:"state"`
	OwnerID       string              `xml:"ownerId"`
	VPCID         string              `xml:"vpcId"`
	CIDR          string              `xml:"cidrBlock"`
	IPv6CIDRs     query.Set[struct{}] `xml:"ipv6CidrBlockAssociationSet"`
	Available     int                 `xml:"availableIpAddressCount"`
	Zone          string              `xml:"availabilityZone"`
	ZoneID        string              `xml:"availabilityZoneId"`
	DefaultForAZ  bool                `xml:"defaultForAz"`
	MapPublicIP   bool                `xml:"mapPublicIpOnLaunch"`
	MapCustomerIP bool                `xml:"mapCustomerOwnedIpOnLaunch"`
	AssignIPv6    bool                `xml:"assignIpv6AddressOnCreation"`
	IPv6Native    bool                `xml:"ipv6Native"`
	DNS64         bool                `xml:"enableDns64"`
	Tags          query.Set[tag]      `xml:"tagSet"`
}

func (a *API) describeSubnets(in *describeSubnetsRequest) (*describeSubnetsAnswer, error) {
	if err := in.notBoth(in.IDs, "subnetSet"); err != nil {
		return nil, err
	}
	world, free := a.cloud.World(), a.cloud.FreeAddresses()
	id := func(s cloud.Subnet) string { return s.ID }
	subnets, err := selectByID(slices.Clone(world.Subnets), in.IDs, "subnet", id)
	if err != nil {
		return nil, err
	}
	type sn = cloud.Subnet
	zone := one(func(s sn) string { return s.Zone })
	cidr := one(func(s sn) string { return s.CIDR.String() })
	by := fields[sn]{
		"availability-zone": zone, "availabilityZone": zone,
		"availability-zone-id": one(func(s sn) string { return s.ZoneID }),
		"available-ip-address-count": one(func(s sn) string {
			return fmt.Sprint(free[s.ID])
		}),
		"cidr": cidr, "cidr-block": cidr, "cidrBlock": cidr,
		"default-for-az":          one(func(s sn) string { return yesNo(s.Default) }),
		"map-public-ip-on-launch": constant[sn]("false"),
		"owner-id":                constant[sn](a.cloud.AccountID()),
		"state":                   constant[sn]("available"),
		"subnet-id":               one(id),
		"vpc-id":                  constant[sn](world.VPC.ID),
	}
	subnets, err = selectBy(subnets, in.Filters, by, func(s sn) cloud.Tags { return world.Tags[s.ID] })
	if err != nil {
		return nil, err
	}
	key := func(s sn) string { return s.Zone + "/" + s.ID }
	slices.SortFunc(subnets, func(x, y sn) int { return cmp.Compare(key(x), key(y)) })
	subnets, next, err := page(in.paging, subnets, key)
	if err != nil {
		return nil, err
	}
	answer := &describeSubnetsAnswer{NextToken: next}
	for _, s := range subnets {
		answer.Subnets.Items = append(answer.Subnets.Items, a.subnet(s, world, free[s.ID]))
	}
	return answer, nil
}

// subnet writes a subnet with this many free addresses.
func (a *API) subnet(s cloud.Subnet, w cloud.World, free int) subnet {
	return subnet{
		ID: s.ID, State: "available", OwnerID: a.cloud.AccountID(), VPCID: w.VPC.ID, CIDR: s.CIDR.String(),
		ARN:       "arn:aws:ec2:" + a.cloud.Region() + ":" + a.cloud.AccountID() + ":subnet/" + s.ID,
		Available: free, Zone: s.Zone, ZoneID: s.ZoneID, DefaultForAZ: s.Default, Tags: tagSet(w.Tags[s.ID]),
	}
}

type createSubnetRequest struct {
	dryRun
	VPCID  string             `query:"VpcId,required"`
	CIDR   string             `query:"CidrBlock,required"`
	Zone   string             `query:"AvailabilityZone"`
	ZoneID string             `query:"AvailabilityZoneId"`
	Tags   []tagSpecification `query:"TagSpecification"`
}

type createSubnetAnswer struct {
	query.Answer
	Subnet subnet `xml:"subnet"`
}

func (a *API) createSubnet(in *createSubnetRequest) (*createSubnetAnswer, error) {
	if in.VPCID != a.cloud.World().VPC.ID {
		return nil, cloud.NotFound("vpc", in.VPCID)
	}
	if in.Zone != "" && in.ZoneID != "" {
		return nil, query.Errorf("InvalidParameterCombination", "A zone is given by its name or by its ID, not by both")
	}
	cidr, err := netip.ParsePrefix(in.CIDR)
	if err != nil || !cidr.Addr().Is4() {
		return nil, query.Errorf("InvalidParameterValue", "Value (%s) for parameter cidrBlock is invalid. This is not a "+
			"valid CIDR block.", in.CIDR)
	}
	tags, err := specifiedTags(in.Tags, "subnet")
	if err != nil {
		return nil, err
	}
	s, err := a.cloud.CreateSubnet(cidr, cmp.Or(in.Zone, in.ZoneID), tags["subnet"], in.DryRun)
	if err != nil {
		return nil, err
	}
	return &createSubnetAnswer{Subnet: a.subnet(s, a.cloud.World(), a.cloud.FreeAddresses()[s.ID])}, nil
}

type deleteSubnetRequest struct {
	dryRun
	ID string `query:"SubnetId,required"`
}

func (a *API) deleteSubnet(in *deleteSubnetRequest) (*done, error) {
	return ok(a.cloud.DeleteSubnet(in.ID, in.DryRun))
}
