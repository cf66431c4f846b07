package ec2local

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
)

// mainTable is the ID of the VPC's main route table, and that of the VPC.
func (e *endpoint) mainTable(t *testing.T) (table, vpc string) {
	t.Helper()
	out := must(e.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{
		Filters: []types.Filter{{Name: aws.String("association.main"), Values: []string{"true"}}},
	}))(t).RouteTables
	if len(out) != 1 {
		t.Fatalf("there are %d main route tables", len(out))
	}
	return *out[0].RouteTableId, *out[0].VpcId
}

// routes are the routes of a table: destination → target and state.
func (e *endpoint) routes(t *testing.T, table string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range must(e.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{RouteTableIds: []string{table}}))(t).RouteTables[0].Routes {
		out[*r.DestinationCidrBlock] = aws.ToString(r.GatewayId) + aws.ToString(r.NetworkInterfaceId) + " " + string(r.State)
	}
	return out
}

func TestRoutes(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	i := must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0]
	e.waitFor(t, *i.InstanceId, types.InstanceStateNameRunning)
	eni := *i.NetworkInterfaces[0].NetworkInterfaceId
	_, vpc := e.mainTable(t)
	table := must(e.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &vpc}))(t).RouteTable.RouteTableId
	create := func(destination string) error {
		_, err := e.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: &destination, InstanceId: i.InstanceId})
		return err
	}
	for destination, want := range map[string]string{
		"192.168.0.0/16": "", "10.0.0.0/8": "", "10.98.32.0/20": "",
		"10.98.0.0/16": "RouteAlreadyExists", "10.98.1.0/24": "InvalidParameterValue", "::/0": "InvalidParameterValue",
	} {
		if got := code(create(destination)); got != want {
			t.Errorf("a route to %s: %q, want %q", destination, got, want)
		}
	}
	if err := create("192.168.0.0/16"); err != nil {
		t.Errorf("the same route again: %v", err)
	}
	want := map[string]string{
		"10.98.0.0/16": "local active", "192.168.0.0/16": eni + " active", "10.0.0.0/8": eni + " active", "10.98.32.0/20": eni + " active",
	}
	if diff := cmp.Diff(want, e.routes(t, *table)); diff != "" {
		t.Errorf("the routes (-want +got):\n%s", diff)
	}

	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*i.InstanceId}}))(t)
	e.waitFor(t, *i.InstanceId, types.InstanceStateNameTerminated)
	if got := e.routes(t, *table)["192.168.0.0/16"]; got != eni+" blackhole" {
		t.Errorf("the route to a terminated instance is %q", got)
	}
	byState := []types.Filter{{Name: aws.String("route.state"), Values: []string{"blackhole"}}}
	if got := must(e.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: byState}))(t).RouteTables; len(got) != 1 || *got[0].RouteTableId != *table {
		t.Errorf("tables with black holes: %v", got)
	}
	if got := code(create("172.16.0.0/12")); got != "InvalidInstanceID.NotFound" {
		t.Errorf("a route to a terminated instance: %q", got)
	}
	for range 2 {
		_, err := e.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: table, DestinationCidrBlock: aws.String("192.168.0.0/16")})
		if err != nil && code(err) != "InvalidRoute.NotFound" {
			t.Errorf("deleting the route: %v", err)
		}
	}
	if _, ok := e.routes(t, *table)["192.168.0.0/16"]; ok {
		t.Error("the route is still there")
	}
	_, local := e.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: table, DestinationCidrBlock: aws.String("10.98.0.0/16")})
	_, none := e.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{RouteTableId: table, DestinationCidrBlock: aws.String("172.16.0.0/12"), GatewayId: aws.String("igw-0")})
	_, gateway := e.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: aws.String("igw-00000000000000000")})
	for want, err := range map[string]error{"InvalidParameterValue": local, "InvalidGatewayID.NotFound": gateway} {
		if code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if code(none) != "InvalidParameterValue" {
		t.Errorf("replacing a route that is not there: %v", none)
	}
}

func TestAssociations(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	main, vpc := e.mainTable(t)
	subnet := e.subnets(t)[0]
	one := must(e.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &vpc}))(t).RouteTable.RouteTableId
	two := must(e.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: &vpc}))(t).RouteTable.RouteTableId
	ofSubnet := func() string {
		t.Helper()
		out := must(e.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{
			Filters: []types.Filter{{Name: aws.String("association.subnet-id"), Values: []string{subnet}}},
		}))(t).RouteTables
		if len(out) == 0 {
			return "" // the main one
		}
		return *out[0].RouteTableId
	}
	if got := ofSubnet(); got != "" {
		t.Errorf("a new subnet uses %s explicitly", got)
	}
	association := must(e.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: one, SubnetId: &subnet}))(t).AssociationId
	if got := ofSubnet(); got != *one {
		t.Errorf("the subnet uses %q, want %s", got, *one)
	}
	if _, err := e.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: two, SubnetId: &subnet}); code(err) != "Resource.AlreadyAssociated" {
		t.Errorf("a second table for a subnet: %v", err)
	}
	association = must(e.ReplaceRouteTableAssociation(ctx, &ec2.ReplaceRouteTableAssociationInput{AssociationId: association, RouteTableId: two}))(t).NewAssociationId
	if got := ofSubnet(); got != *two {
		t.Errorf("the subnet uses %q, want %s", got, *two)
	}
	_, used := e.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: two})
	_, isMain := e.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: &main})
	if code(used) != "DependencyViolation" || code(isMain) != "DependencyViolation" {
		t.Errorf("deleting tables in use: %v, %v", used, isMain)
	}
	must(e.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: association}))(t)
	if got := ofSubnet(); got != "" {
		t.Errorf("the subnet uses %s explicitly", got)
	}

	mainAssociation := must(e.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{RouteTableIds: []string{main}}))(t).
		RouteTables[0].Associations[0].RouteTableAssociationId
	if _, err := e.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: mainAssociation}); code(err) != "InvalidParameterValue" {
		t.Errorf("disassociating the main table: %v", err)
	}
	must(e.ReplaceRouteTableAssociation(ctx, &ec2.ReplaceRouteTableAssociationInput{AssociationId: mainAssociation, RouteTableId: one}))(t)
	if got, _ := e.mainTable(t); got != *one {
		t.Errorf("the main table is %s, want %s", got, *one)
	}
	must(e.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: &main}))(t)
	e.restart(t)
	if got, _ := e.mainTable(t); got != *one {
		t.Errorf("after a restart the main table is %s, want %s", got, *one)
	}
}
