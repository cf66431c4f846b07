package ec2api

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

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
	Destination   string `xml:"destinationCidrBlock"`
	GatewayID     string `xml:"gatewayId,omitempty"`
	InstanceID    string `xml:"instanceId,omitempty"`
	InstanceOwner string `xml:"instanceOwnerId,omitempty"`
	InterfaceID   string `xml:"networkInterfaceId,omitempty"`
	State         string `xml:"state"`
	Origin        string `xml:"origin"`
}

type routeAssociation struct {
	ID       string           `xml:"routeTableAssociationId"`
	TableID  string           `xml:"routeTableId"`
	SubnetID string           `xml:"subnetId,omitempty"`
	Main     bool             `xml:"main"`
	State    associationState `xml:"associationState"`
}

type associationState struct {
	State string `xml:"state"`
}

var associated = associationState{State: "associated"}

func (a *API) describeRouteTables(in *describeRouteTablesRequest) (*describeRouteTablesAnswer, error) {
	if err := in.notBoth(in.IDs, "routeTableIds"); err != nil {
		return nil, err
	}
	world := a.cloud.World()
	var all []routeTable
	for _, t := range slices.SortedFunc(maps.Values(world.RouteTables), func(x, y cloud.RouteTable) int {
		return cmp.Compare(x.ID, y.ID)
	}) {
		all = append(all, a.routeTable(t, world))
	}
	id := func(t routeTable) string { return t.ID }
	tables, err := selectByID(all, in.IDs, "rtb", id)
	if err != nil {
		return nil, err
	}
	tables, err = selectBy(tables, in.Filters, tableFields, func(t routeTable) cloud.Tags { return world.Tags[t.ID] })
	if err != nil {
		return nil, err
	}
	tables, next, err := page(in.paging, tables, id)
	if err != nil {
		return nil, err
	}
	return &describeRouteTablesAnswer{Tables: query.SetOf(tables...), NextToken: next}, nil
}

// routeTable writes a table as EC2 shows it: the local route first.
func (a *API) routeTable(t cloud.RouteTable, w cloud.World) routeTable {
	out := routeTable{ID: t.ID, VPCID: w.VPC.ID, OwnerID: a.cloud.AccountID(), Tags: tagSet(w.Tags[t.ID])}
	out.Routes = query.SetOf(route{
		Destination: w.VPC.CIDR.String(), GatewayID: localGateway, State: "active", Origin: "CreateRouteTable",
	})
	for _, destination := range slices.SortedFunc(maps.Keys(t.Routes), netip.Prefix.Compare) {
		out.Routes.Items = append(out.Routes.Items, a.route(destination, t.Routes[destination]))
	}
	if t.Main() {
		out.Associations = query.SetOf(routeAssociation{ID: t.MainID, TableID: t.ID, Main: true, State: associated})
	}
	for _, id := range slices.Sorted(maps.Keys(t.Subnets)) {
		out.Associations.Items = append(out.Associations.Items,
			routeAssociation{ID: id, TableID: t.ID, SubnetID: t.Subnets[id], State: associated})
	}
	return out
}

// route writes a route that somebody made. One whose target is gone, or does not run, is a black hole.
func (a *API) route(destination netip.Prefix, to cloud.Target) route {
	out := route{
		Destination: destination.String(), GatewayID: to.GatewayID, InterfaceID: to.InterfaceID,
		State: "active", Origin: "CreateRoute",
	}
	if to.InterfaceID == "" {
		return out
	}
	owner, ok := a.cloud.InterfaceOwner(to.InterfaceID)
	if ok {
		out.InstanceID, out.InstanceOwner = owner.ID, a.cloud.AccountID()
	}
	if !ok || owner.State != cloud.Running && owner.State != cloud.Pending {
		out.State = "blackhole"
	}
	return out
}

// tableFields are what route tables can be filtered by.
var tableFields = func() fields[routeTable] {
	ofRoutes := func(f func(route) string) func(routeTable) []string {
		return func(t routeTable) []string { return each(t.Routes.Items, f) }
	}
	ofAssociations := func(f func(routeAssociation) string) func(routeTable) []string {
		return func(t routeTable) []string { return each(t.Associations.Items, f) }
	}
	return fields[routeTable]{
		"association.gateway-id":                 constant[routeTable](),
		"association.main":                       ofAssociations(func(x routeAssociation) string { return yesNo(x.Main) }),
		"association.route-table-association-id": ofAssociations(func(x routeAssociation) string { return x.ID }),
		"association.route-table-id":             ofAssociations(func(x routeAssociation) string { return x.TableID }),
		// Subnets use the main table implicitly: it names none of them.
		"association.subnet-id":        ofAssociations(func(x routeAssociation) string { return x.SubnetID }),
		"owner-id":                     one(func(t routeTable) string { return t.OwnerID }),
		"route-table-id":               one(func(t routeTable) string { return t.ID }),
		"route.destination-cidr-block": ofRoutes(func(r route) string { return r.Destination }),
		"route.gateway-id":             ofRoutes(func(r route) string { return r.GatewayID }),
		"route.instance-id":            ofRoutes(func(r route) string { return r.InstanceID }),
		"route.origin":                 ofRoutes(func(r route) string { return r.Origin }),
		"route.state":                  ofRoutes(func(r route) string { return r.State }),
		"vpc-id":                       one(func(t routeTable) string { return t.VPCID }),
	}
}()

// each is what f yields of some things, without the empty ones.
func each[T any](things []T, f func(T) string) []string {
	var out []string
	for _, x := range things {
		if s := f(x); s != "" {
			out = append(out, s)
		}
	}
	return out
}

const localGateway = "local"

type createRouteTableRequest struct {
	dryRun
	VPCID       string `query:"VpcId,required"`
	ClientToken string
	Tags        []tagSpecification `query:"TagSpecification"`
}

type createRouteTableAnswer struct {
	query.Answer
	Table routeTable `xml:"routeTable"`
}

func (a *API) createRouteTable(in *createRouteTableRequest) (*createRouteTableAnswer, error) {
	if in.VPCID != a.cloud.World().VPC.ID {
		return nil, cloud.NotFound("vpc", in.VPCID)
	}
	tags, err := specifiedTags(in.Tags, "route-table")
	if err != nil {
		return nil, err
	}
	t, err := a.cloud.CreateRouteTable(in.ClientToken, tags["route-table"], in.DryRun)
	if err != nil {
		return nil, err
	}
	return &createRouteTableAnswer{Table: a.routeTable(t, a.cloud.World())}, nil
}

type deleteRouteTableRequest struct {
	dryRun
	ID string `query:"RouteTableId,required"`
}

func (a *API) deleteRouteTable(in *deleteRouteTableRequest) (*done, error) {
	return ok(a.cloud.DeleteRouteTable(in.ID, in.DryRun))
}

type associateRouteTableRequest struct {
	dryRun
	TableID  string `query:"RouteTableId,required"`
	SubnetID string `query:"SubnetId,required"`
}

type associateRouteTableAnswer struct {
	query.Answer
	ID    string           `xml:"associationId"`
	State associationState `xml:"associationState"`
}

func (a *API) associateRouteTable(in *associateRouteTableRequest) (*associateRouteTableAnswer, error) {
	id, err := a.cloud.Associate(in.TableID, in.SubnetID, in.DryRun)
	return &associateRouteTableAnswer{ID: id, State: associated}, err
}

type disassociateRouteTableRequest struct {
	dryRun
	ID string `query:"AssociationId,required"`
}

func (a *API) disassociateRouteTable(in *disassociateRouteTableRequest) (*done, error) {
	return ok(a.cloud.Disassociate(in.ID, in.DryRun))
}

type replaceAssociationRequest struct {
	dryRun
	ID      string `query:"AssociationId,required"`
	TableID string `query:"RouteTableId,required"`
}

type replaceAssociationAnswer struct {
	query.Answer
	ID    string           `xml:"newAssociationId"`
	State associationState `xml:"associationState"`
}

func (a *API) replaceRouteTableAssociation(in *replaceAssociationRequest) (*replaceAssociationAnswer, error) {
	id, err := a.cloud.ReplaceAssociation(in.ID, in.TableID, in.DryRun)
	return &replaceAssociationAnswer{ID: id, State: associated}, err
}
