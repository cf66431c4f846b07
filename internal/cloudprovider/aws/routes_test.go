package aws

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func (s *stub) DescribeRouteTables(context.Context, *ec2.DescribeRouteTablesInput, ...func(*ec2.Options)) (*ec2.DescribeRouteTablesOutput, error) {
	// The caller keeps the answer, which must not change under it.
	var tables []types.RouteTable
	for _, t := range s.tables {
		t.Routes = slices.Clone(t.Routes)
		tables = append(tables, t)
	}
	return &ec2.DescribeRouteTablesOutput{RouteTables: tables}, s.read("tables")
}

func (s *stub) ModifyInstanceAttribute(_ context.Context, in *ec2.ModifyInstanceAttributeInput, _ ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error) {
	s.order = append(s.order, "check off "+aws.ToString(in.InstanceId))
	if aws.ToBool(in.SourceDestCheck.Value) {
		return nil, errors.New("the check was turned on")
	}
	return &ec2.ModifyInstanceAttributeOutput{}, s.change
}

func (s *stub) CreateRoute(_ context.Context, in *ec2.CreateRouteInput, _ ...func(*ec2.Options)) (*ec2.CreateRouteOutput, error) {
	id, network := aws.ToString(in.RouteTableId), aws.ToString(in.DestinationCidrBlock)
	s.order = append(s.order, "create "+id+" "+network)
	i := slices.IndexFunc(s.tables, func(t types.RouteTable) bool { return aws.ToString(t.RouteTableId) == id })
	s.tables[i].Routes = append(s.tables[i].Routes, types.Route{DestinationCidrBlock: in.DestinationCidrBlock,
		NetworkInterfaceId: in.NetworkInterfaceId, Origin: types.RouteOriginCreateRoute, State: types.RouteStateActive})
	return &ec2.CreateRouteOutput{}, nil
}

func (s *stub) DeleteRoute(_ context.Context, in *ec2.DeleteRouteInput, _ ...func(*ec2.Options)) (*ec2.DeleteRouteOutput, error) {
	id, network := aws.ToString(in.RouteTableId), aws.ToString(in.DestinationCidrBlock)
	s.order = append(s.order, "delete "+id+" "+network)
	for i := range s.tables {
		if aws.ToString(s.tables[i].RouteTableId) == id {
			s.tables[i].Routes = slices.DeleteFunc(s.tables[i].Routes, func(r types.Route) bool { return aws.ToString(r.DestinationCidrBlock) == network })
		}
	}
	return &ec2.DeleteRouteOutput{}, s.change
}

// withTables gives the account's subnets a2 a table of its own, the others the
// main table, and another table that no subnet of ours uses.
func withTables(s *stub) {
	table := func(id string, a types.RouteTableAssociation, routes ...types.Route) types.RouteTable {
		return types.RouteTable{RouteTableId: aws.String(id), Associations: []types.RouteTableAssociation{a}, Routes: append(routes,
			types.Route{DestinationCidrBlock: aws.String("10.0.0.0/16"), GatewayId: aws.String("local"), Origin: types.RouteOriginCreateRouteTable})}
	}
	s.tables = []types.RouteTable{
		table("rtb-main", types.RouteTableAssociation{Main: aws.Bool(true)}),
		table("rtb-a2", types.RouteTableAssociation{SubnetId: aws.String("subnet-a2"), Main: aws.Bool(false)},
			types.Route{DestinationCidrBlock: aws.String("10.9.0.0/16"), VpcPeeringConnectionId: aws.String("pcx-1")}),
		table("rtb-other", types.RouteTableAssociation{SubnetId: aws.String("subnet-other")}),
	}
}

var target = cloudprovider.RouteTarget{InstanceID: "i-1", NetworkInterface: "eni-1"}

func TestEnsureRoutes(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		networks []string
		have     *types.Route // in the main table
		err      string
		taken    bool
		order    []string
	}{
		"new": {
			reason: "in the tables of all subnets for cells, the implicit main table among them; the check first", networks: []string{"10.20.0.0/16"},
			order: []string{"check off i-1", "create rtb-main 10.20.0.0/16", "create rtb-a2 10.20.0.0/16"},
		},
		"half there": {
			reason: "what a killed Kip left undone is done", networks: []string{"10.20.0.0/16"},
			have:  &types.Route{DestinationCidrBlock: aws.String("10.20.0.0/16"), NetworkInterfaceId: aws.String("eni-1")},
			order: []string{"check off i-1", "create rtb-a2 10.20.0.0/16"},
		},
		"taken in one table": {
			reason: "left as it is, the rest is made", networks: []string{"10.9.0.0/16", "10.20.0.0/16"}, taken: true,
			err:   "10.9.0.0/16 in rtb-a2 leads to pcx-1 and is left as it is",
			order: []string{"check off i-1", "create rtb-main 10.9.0.0/16", "create rtb-main 10.20.0.0/16", "create rtb-a2 10.20.0.0/16"},
		},
		"taken by a blackhole": {
			reason: "not ours to judge", networks: []string{"10.20.0.0/16"}, taken: true,
			have: &types.Route{DestinationCidrBlock: aws.String("10.20.0.0/16"), NetworkInterfaceId: aws.String("eni-9"), State: types.RouteStateBlackhole},
			err:  "blackhole", order: []string{"check off i-1", "create rtb-a2 10.20.0.0/16"},
		},
		"within the VPC": {
			reason: "a pod must not take the traffic of a subnet", networks: []string{"10.0.1.0/24"}, err: "10.0.1.0/24 lies within the VPC's own 10.0.0.0/16",
		},
		"the VPC": {reason: "nor of all", networks: []string{"10.0.0.0/16"}, err: "lies within the VPC's own"},
		"around the VPC": {
			reason: "the VPC's own route is more specific", networks: []string{"10.0.0.0/8"},
			order: []string{"check off i-1", "create rtb-main 10.0.0.0/8", "create rtb-a2 10.0.0.0/8"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, s, _ := newStub(t, nil)
			withTables(s)
			if tc.have != nil {
				s.tables[0].Routes = append(s.tables[0].Routes, *tc.have)
			}
			err := p.EnsureRoutes(t.Context(), target, tc.networks)
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("%s: error %v, want %q", tc.reason, err, tc.err)
			}
			if got := errors.Is(err, cloudprovider.ErrRouteTaken); got != tc.taken {
				t.Errorf("%s: ErrRouteTaken = %v", tc.reason, got)
			}
			if diff := cmp.Diff(tc.order, s.order); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestRoutesOfManyCellsCostOneLook(t *testing.T) {
	p, s, clk := newStub(t, nil)
	withTables(s)
	ensure := func() {
		t.Helper()
		if err := p.EnsureRoutes(t.Context(), target, []string{"10.20.0.0/16"}); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	ensure() // reads what was made
	reads := s.reads["tables"]
	for range 100 {
		ensure()
	}
	if n := s.reads["tables"] - reads; n != 0 {
		t.Errorf("%d reads while nothing is missing", n)
	}

	s.tables[0].Routes = nil // by somebody else
	s.order = nil
	clk.Step(routeTTL)
	ensure()
	if !slices.Contains(s.order, "create rtb-main 10.20.0.0/16") {
		t.Errorf("a route that somebody removed is not made again: %v", s.order)
	}
}

func TestNoRouteWithoutForwarding(t *testing.T) {
	p, s, _ := newStub(t, nil)
	withTables(s)
	s.change = &smithy.GenericAPIError{Code: "UnauthorizedOperation", Message: "no"}
	err := p.EnsureRoutes(t.Context(), target, []string{"10.20.0.0/16"})
	if cloudprovider.KindOf(err) != cloudprovider.Denied || !strings.Contains(err.Error(), "ec2:ModifyInstanceAttribute") {
		t.Errorf("error %v, want Denied that names the action", err)
	}
	if diff := cmp.Diff([]string{"check off i-1"}, s.order); diff != "" {
		t.Errorf("a route to an instance that drops its packets: %s", diff)
	}
}

func TestRemoveRoutes(t *testing.T) {
	p, s, clk := newStub(t, nil)
	withTables(s)
	if err := p.EnsureRoutes(t.Context(), target, []string{"10.20.0.0/16", "10.30.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	// Since then the instance ended, 10.30 was led elsewhere, and a subnet got
	// another table.
	clk.Step(time.Second)
	for i := range s.tables[0].Routes {
		if r := &s.tables[0].Routes[i]; aws.ToString(r.DestinationCidrBlock) == "10.30.0.0/16" {
			r.NetworkInterfaceId = aws.String("eni-2")
		} else if r.NetworkInterfaceId != nil {
			r.State = types.RouteStateBlackhole
		}
	}
	s.tables[1].Associations = nil
	s.order = nil
	if err := p.RemoveRoutes(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	want := []string{"delete rtb-main 10.20.0.0/16", "delete rtb-a2 10.20.0.0/16", "delete rtb-a2 10.30.0.0/16"}
	if diff := cmp.Diff(want, s.order); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	s.order = nil
	if err := p.RemoveRoutes(t.Context(), cloudprovider.RouteTarget{InstanceID: "i-3"}); err != nil || len(s.order) != 0 {
		t.Errorf("an unknown interface has no routes: %v, %v", s.order, err)
	}
}

func TestRemoveRoutesDoesNotTrustMemory(t *testing.T) {
	p, s, clk := newStub(t, nil)
	withTables(s)
	if err := p.RemoveRoutes(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	s.tables[0].Routes = append(s.tables[0].Routes, types.Route{DestinationCidrBlock: aws.String("10.20.0.0/16"), NetworkInterfaceId: aws.String("eni-1")})
	clk.Step(time.Millisecond)
	if err := p.RemoveRoutes(t.Context(), target); err != nil || len(s.order) != 1 {
		t.Errorf("a route of before the look stays: %v, %v", s.order, err)
	}
	s.err = &smithy.GenericAPIError{Code: "RequestLimitExceeded"}
	clk.Step(time.Millisecond)
	if err := p.RemoveRoutes(t.Context(), target); cloudprovider.KindOf(err) != cloudprovider.Throttled {
		t.Errorf("got %v; without a look nothing is known to be gone", err)
	}
	s.err, s.change = nil, &smithy.GenericAPIError{Code: "InvalidRoute.NotFound"}
	s.tables[0].Routes = append(s.tables[0].Routes, types.Route{DestinationCidrBlock: aws.String("10.20.0.0/16"), NetworkInterfaceId: aws.String("eni-1")})
	clk.Step(staleRetry)
	if err := p.RemoveRoutes(t.Context(), target); err != nil {
		t.Errorf("gone is gone: %v", err)
	}
}
