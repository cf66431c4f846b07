package ec2api

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeVpcsRequest struct {
	dryRun
	paging
	IDs     []string `query:"VpcId"`
	Filters []filter `query:"Filter"`
}

type describeVpcsAnswer struct {
	query.Answer
	VPCs      query.Set[vpc] `xml:"vpcSet"`
	NextToken string         `xml:"nextToken,omitempty"`
}

type vpc struct {
	ID            string                     `xml:"vpcId"`
	OwnerID       string                     `xml:"ownerId"`
	State         string                     `xml:"state"`
	CIDR          string                     `xml:"cidrBlock"`
	CIDRs         query.Set[cidrAssociation] `xml:"cidrBlockAssociationSet"`
	DHCPOptionsID string                     `xml:"dhcpOptionsId"`
	Tags          query.Set[tag]             `xml:"tagSet"`
	Tenancy       string                     `xml:"instanceTenancy"`
	IsDefault     bool                       `xml:"isDefault"`
}

type cidrAssociation struct {
	CIDR  string `xml:"cidrBlock"`
	ID    string `xml:"associationId"`
	State struct {
		State string `xml:"state"`
	} `xml:"cidrBlockState"`
}

func (a *API) describeVpcs(in *describeVpcsRequest) (*describeVpcsAnswer, error) {
	if err := in.notBoth(in.IDs, "vpcSet"); err != nil {
		return nil, err
	}
	world := a.cloud.World()
	id := func(v cloud.VPC) string { return v.ID }
	vpcs, err := selectByID([]cloud.VPC{world.VPC}, in.IDs, "vpc", id)
	if err != nil {
		return nil, err
	}
	by := fields[cloud.VPC]{
		"cidr":            one(func(v cloud.VPC) string { return v.CIDR.String() }),
		"dhcp-options-id": one(func(v cloud.VPC) string { return v.DHCPOptionsID }),
		"is-default":      constant[cloud.VPC]("true"),
		"owner-id":        constant[cloud.VPC](a.cloud.AccountID()),
		"state":           constant[cloud.VPC]("available"),
		"vpc-id":          one(id),
		"cidr-block-association.cidr-block": one(func(v cloud.VPC) string {
			return v.CIDR.String()
		}),
	}
	vpcs, err = selectBy(vpcs, in.Filters, by, func(v cloud.VPC) cloud.Tags { return world.Tags[v.ID] })
	if err != nil {
		return nil, err
	}
	vpcs, next, err := page(in.paging, vpcs, id)
	if err != nil {
		return nil, err
	}
	answer := &describeVpcsAnswer{NextToken: next}
	for _, v := range vpcs {
		whole := cidrAssociation{CIDR: v.CIDR.String(), ID: v.AssociationID}
		whole.State.State = "associated"
		answer.VPCs.Items = append(answer.VPCs.Items, vpc{
			ID: v.ID, OwnerID: a.cloud.AccountID(), State: "available", CIDR: v.CIDR.String(),
			CIDRs: query.SetOf(whole), DHCPOptionsID: v.DHCPOptionsID, Tags: tagSet(world.Tags[v.ID]),
			Tenancy: "default", IsDefault: true,
		})
	}
	return answer, nil
}

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
		"default-for-az":          constant[sn]("true"),
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
		answer.Subnets.Items = append(answer.Subnets.Items, subnet{
			ID: s.ID, State: "available", OwnerID: a.cloud.AccountID(), VPCID: world.VPC.ID, CIDR: s.CIDR.String(),
			ARN:       "arn:aws:ec2:" + a.cloud.Region() + ":" + a.cloud.AccountID() + ":subnet/" + s.ID,
			Available: free[s.ID], Zone: s.Zone, ZoneID: s.ZoneID, DefaultForAZ: true, Tags: tagSet(world.Tags[s.ID]),
		})
	}
	return answer, nil
}
