package ec2api

import (
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
