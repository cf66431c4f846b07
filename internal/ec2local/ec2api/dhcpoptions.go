package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeDHCPOptionsRequest struct {
	dryRun
	paging
	IDs     []string `query:"DhcpOptionsId"`
	Filters []filter `query:"Filter"`
}

type describeDHCPOptionsAnswer struct {
	query.Answer
	Options   query.Set[dhcpOptions] `xml:"dhcpOptionsSet"`
	NextToken string                 `xml:"nextToken,omitempty"`
}

type dhcpOptions struct {
	ID             string                `xml:"dhcpOptionsId"`
	OwnerID        string                `xml:"ownerId"`
	Configurations query.Set[dhcpOption] `xml:"dhcpConfigurationSet"`
	Tags           query.Set[tag]        `xml:"tagSet"`
}

type dhcpOption struct {
	Key    string               `xml:"key"`
	Values query.Set[dhcpValue] `xml:"valueSet"`
}

type dhcpValue struct {
	Value string `xml:"value"`
}

// describeDHCPOptions shows the VPC's only set of options, which is the one that every region comes with.
func (a *API) describeDHCPOptions(in *describeDHCPOptionsRequest) (*describeDHCPOptionsAnswer, error) {
	if err := in.notBoth(in.IDs, "dhcpOptionsIds"); err != nil {
		return nil, err
	}
	world := a.cloud.World()
	all := []dhcpOptions{{
		ID: world.VPC.DHCPOptionsID, OwnerID: a.cloud.AccountID(), Tags: tagSet(world.Tags[world.VPC.DHCPOptionsID]),
		Configurations: query.SetOf(
			dhcpOption{Key: "domain-name", Values: query.SetOf(dhcpValue{a.cloud.PrivateDomain()})},
			dhcpOption{Key: "domain-name-servers", Values: query.SetOf(dhcpValue{"AmazonProvidedDNS"})},
		),
	}}
	id := func(o dhcpOptions) string { return o.ID }
	all, err := selectByID(all, in.IDs, "dopt", id)
	if err != nil {
		return nil, err
	}
	all, err = selectBy(all, in.Filters, fields[dhcpOptions]{
		"dhcp-options-id": one(id),
		"key": func(o dhcpOptions) []string {
			return each(o.Configurations.Items, func(c dhcpOption) string { return c.Key })
		},
		"owner-id": one(func(o dhcpOptions) string { return o.OwnerID }),
		"value": func(o dhcpOptions) []string {
			return each(o.Configurations.Items, func(c dhcpOption) string { return c.Values.Items[0].Value })
		},
	}, func(o dhcpOptions) cloud.Tags { return world.Tags[o.ID] })
	if err != nil {
		return nil, err
	}
	all, next, err := page(in.paging, all, id)
	if err != nil {
		return nil, err
	}
	return &describeDHCPOptionsAnswer{Options: query.SetOf(all...), NextToken: next}, nil
}
