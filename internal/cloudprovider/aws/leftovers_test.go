package aws

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// attic is an account in which things were left over.
type attic struct {
	*stub
	t          *testing.T
	volumes    []types.Volume
	interfaces []types.NetworkInterface
	deleted    []string
	clock      *clocktesting.FakeClock
	refusal    error
}

// ours fails the test unless a list is of what is ours and belongs to nothing.
func (a *attic) ours(filters []types.Filter, others ...types.Filter) {
	a.t.Helper()
	want := append([]types.Filter{filter("tag:KipControllerID", "c/n/node")}, others...)
	if diff := cmp.Diff(want, filters, cmpopts.IgnoreUnexported(types.Filter{})); diff != "" {
		a.t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

func (a *attic) DescribeVolumes(_ context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	a.ours(in.Filters, filter("status", "available"))
	return &ec2.DescribeVolumesOutput{Volumes: a.volumes}, nil
}

func (a *attic) DescribeNetworkInterfaces(_ context.Context, in *ec2.DescribeNetworkInterfacesInput, _ ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error) {
	a.ours(in.Filters, filter("status", "available"))
	return &ec2.DescribeNetworkInterfacesOutput{NetworkInterfaces: a.interfaces}, nil
}

func (a *attic) delete(id *string) error {
	a.deleted = append(a.deleted, aws.ToString(id))
	return a.refusal
}

func (a *attic) DeleteVolume(_ context.Context, in *ec2.DeleteVolumeInput, _ ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error) {
	return &ec2.DeleteVolumeOutput{}, a.delete(in.VolumeId)
}

func (a *attic) DeleteNetworkInterface(_ context.Context, in *ec2.DeleteNetworkInterfaceInput, _ ...func(*ec2.Options)) (*ec2.DeleteNetworkInterfaceOutput, error) {
	return &ec2.DeleteNetworkInterfaceOutput{}, a.delete(in.NetworkInterfaceId)
}

func (a *attic) DeleteSecurityGroup(_ context.Context, in *ec2.DeleteSecurityGroupInput, _ ...func(*ec2.Options)) (*ec2.DeleteSecurityGroupOutput, error) {
	return &ec2.DeleteSecurityGroupOutput{}, a.delete(in.GroupId)
}

func newAttic(t *testing.T) (*Provider, *attic) {
	t.Helper()
	p, s, clk := newStub(t, nil)
	s.groups[0].VpcId = aws.String("vpc-1")
	a := &attic{stub: s, t: t, clock: clk}
	p.ec2 = a
	return p, a
}

func TestLeftovers(t *testing.T) {
	p, a := newAttic(t)
	withTables(a.stub)
	target := cloudprovider.RouteTarget{InstanceID: "i-1", NetworkInterface: "eni-gone"}
	if err := p.EnsureRoutes(t.Context(), target, []string{"10.20.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	if left, err := p.Leftovers(t.Context()); err != nil || len(left) != 0 {
		t.Fatalf("nothing is left over, and found are %v (%v)", left, err)
	}

	a.volumes = []types.Volume{{VolumeId: aws.String("vol-1"), Tags: []types.Tag{tag(tagCell, "web-0")}}}
	a.interfaces = []types.NetworkInterface{{NetworkInterfaceId: aws.String("eni-1"), TagSet: []types.Tag{tag(tagCell, "web-1")}}}
	a.groups = []types.SecurityGroup{{GroupId: aws.String("sg-own"), VpcId: aws.String("vpc-1")}, {GroupId: aws.String("sg-old"), VpcId: aws.String("vpc-old")}}
	foreign := types.Route{DestinationCidrBlock: aws.String("10.99.0.0/16"), NetworkInterfaceId: aws.String("eni-foreign"), State: types.RouteStateBlackhole}
	for i := range a.tables {
		for n := range a.tables[i].Routes {
			if r := &a.tables[i].Routes[n]; aws.ToString(r.NetworkInterfaceId) == target.NetworkInterface {
				r.State = types.RouteStateBlackhole
			}
		}
		a.tables[i].Routes = append(a.tables[i].Routes, foreign)
	}
	a.clock.Step(time.Second)
	left, err := p.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.clock.Step(time.Second)
	routes := slices.DeleteFunc(slices.Clone(left), func(l cloudprovider.Leftover) bool { return l.Kind != cloudprovider.LeftRoute })
	want := []cloudprovider.Leftover{
		{Kind: cloudprovider.LeftVolume, ID: "vol-1", CellName: "web-0"},
		{Kind: cloudprovider.LeftInterface, ID: "eni-1", CellName: "web-1", NetworkInterface: "eni-1"},
		{Kind: cloudprovider.LeftGroup, ID: "sg-old"},
	}
	if diff := cmp.Diff(want, left[:len(left)-len(routes)]); diff != "" {
		t.Errorf("left over are (-want +got):\n%s", diff)
	}
	if len(routes) == 0 {
		t.Error("no route is left over")
	}
	for _, r := range routes {
		if r.NetworkInterface != target.NetworkInterface {
			t.Errorf("%+v is not ours", r)
		}
	}

	for _, l := range left {
		if err := p.RemoveLeftover(t.Context(), l); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if diff := cmp.Diff([]string{"vol-1", "eni-1", "sg-old"}, a.deleted); diff != "" {
		t.Errorf("deleted were (-want +got):\n%s", diff)
	}
	for _, table := range a.tables {
		for _, r := range table.Routes {
			if aws.ToString(r.NetworkInterfaceId) == target.NetworkInterface {
				t.Errorf("%s has the route yet", aws.ToString(table.RouteTableId))
			}
		}
		if !slices.ContainsFunc(table.Routes, func(r types.Route) bool { return aws.ToString(r.NetworkInterfaceId) == "eni-foreign" }) {
			t.Errorf("%s has lost a route that is not ours", aws.ToString(table.RouteTableId))
		}
	}
}

func TestRemoveLeftoverErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		kind   cloudprovider.LeftoverKind
		code   string
		want   cloudprovider.Kind // "" means nil
	}{
		"volume is gone":    {"somebody was faster", cloudprovider.LeftVolume, "InvalidVolume.NotFound", ""},
		"interface is gone": {"somebody was faster", cloudprovider.LeftInterface, "InvalidNetworkInterfaceID.NotFound", ""},
		"group is gone":     {"somebody was faster", cloudprovider.LeftGroup, "InvalidGroup.NotFound", ""},
		"group is used":     {"its cells run yet", cloudprovider.LeftGroup, "DependencyViolation", cloudprovider.Transient},
		"denied":            {"the right is optional", cloudprovider.LeftVolume, "UnauthorizedOperation", cloudprovider.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			p, a := newAttic(t)
			a.refusal = &smithy.GenericAPIError{Code: tc.code}
			err := p.RemoveLeftover(t.Context(), cloudprovider.Leftover{Kind: tc.kind, ID: "x"})
			if got := cloudprovider.KindOf(err); got != tc.want {
				t.Errorf("%s: got %v, %q", tc.reason, err, got)
			}
		})
	}
}

// TestCleanUpOfLeftovers: an interface that nobody has holds the group for ever,
// so the group comes last.
func TestCleanUpOfLeftovers(t *testing.T) {
	p, a := newAttic(t)
	a.volumes = []types.Volume{{VolumeId: aws.String("vol-1")}}
	a.interfaces = []types.NetworkInterface{{NetworkInterfaceId: aws.String("eni-1")}}
	if err := p.CleanUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"vol-1", "eni-1", "sg-own"}, a.deleted); diff != "" {
		t.Errorf("deleted were (-want +got):\n%s", diff)
	}
}
