package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeRouteTablesRequest struct {
	dryRun
	paging
	IDs     []string `query:"RouteTableId"`
	Filters []filter `query:"Filter"`
}

type describeRouteTablesAnswer struct {
	query.Answer
	Tables    query.Set[routeTable] `xml:"routeTableSet"`
	NextToken string                `xml:"nextToken,omitempty"`
}

type routeTable struct {
	ID           string                      `xml:"routeTableId"`
	VPCID        string                      `xml:"vpcId"`
	OwnerID      string                      `xml:"ownerId"`
	Routes       query.Set[route]            `xml:"routeSet"`
	Associations query.Set[routeAssociation] `xml:"associationSet"`
	Propagating  query.Set[struct{}]         `xml:"propagatingVgwSet"`
	Tags         query.Set[tag]              `xml:"tagSet"`
}

type route struct {
	Destination string `xml:"destinationCidrBlock"`
	GatewayID   string `xml:"gatewayId"`
	State       string `xml:"state"`
	Origin      string `xml:"origin"`
}

type routeAssociation struct {
	ID      string `xml:"routeTableAssociationId"`
	TableID string `xml:"routeTableId"`
	Main    bool   `xml:"main"`
	State   struct {
		State string `xml:"state"`
	} `xml:"associationState"`
}

func (a *API) describeRouteTables(in *describeRouteTablesRequest) (*describeRouteTablesAnswer, error) {
	if err := in.notBoth(in.IDs, "routeTableIds"); err != nil {
		return nil, err
	}
	type rt = cloud.RouteTable
	world := a.cloud.World()
	id := func(t rt) string { return t.ID }
	tables, err := selectByID([]rt{world.RouteTable}, in.IDs, "rtb", id)
	if err != nil {
		return nil, err
	}
	by := fields[rt]{
		"association.gateway-id":                 constant[rt](),
		"association.main":                       constant[rt]("true"),
		"association.route-table-association-id": one(func(t rt) string { return t.AssociationID }),
		"association.route-table-id":             one(id),
		// Subnets use the main table implicitly: it names none of them.
		"association.subnet-id":        constant[rt](),
		"owner-id":                     constant[rt](a.cloud.AccountID()),
		"route-table-id":               one(id),
		"route.destination-cidr-block": constant[rt](world.VPC.CIDR.String(), everywhere),
		"route.gateway-id":             func(t rt) []string { return []string{localGateway, t.InternetGatewayID} },
		"route.origin":                 constant[rt]("CreateRouteTable", "CreateRoute"),
		"route.state":                  constant[rt]("active"),
		"vpc-id":                       constant[rt](world.VPC.ID),
	}
	tables, err = selectBy(tables, in.Filters, by, func(t rt) cloud.Tags { return world.Tags[t.ID] })
	if err != nil {
		return nil, err
	}
	tables, next, err := page(in.paging, tables, id)
	if err != nil {
		return nil, err
	}
	answer := &describeRouteTablesAnswer{NextToken: next}
	for _, t := range tables {
		main := routeAssociation{ID: t.AssociationID, TableID: t.ID, Main: true}
		main.State.State = "associated"
		answer.Tables.Items = append(answer.Tables.Items, routeTable{
			ID: t.ID, VPCID: world.VPC.ID, OwnerID: a.cloud.AccountID(),
			Routes: query.SetOf(
				route{Destination: world.VPC.CIDR.String(), GatewayID: localGateway, State: "active", Origin: "CreateRouteTable"},
				route{Destination: everywhere, GatewayID: t.InternetGatewayID, State: "active", Origin: "CreateRoute"},
			),
			Associations: query.SetOf(main), Tags: tagSet(world.Tags[t.ID]),
		})
	}
	return answer, nil
}

const (
	everywhere   = "0.0.0.0/0"
	localGateway = "local"
)
