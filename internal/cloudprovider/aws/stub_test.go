package aws

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	clocktesting "k8s.io/utils/clock/testing"
)

// stub answers Describe calls from fields and records what is asked to change.
// Methods that a test does not set up panic through the nil interface.
type stub struct {
	api
	subnets []types.Subnet
	vpcs    []types.Vpc
	groups  []types.SecurityGroup
	images  []types.Image
	tables  []types.RouteTable

	reads               map[string]int
	err                 error // of all reads
	change              error // of changes to routes
	launch              func(*ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error)
	created             *ec2.CreateSecurityGroupInput
	authorized, revoked []types.IpPermission
	imageRequest        *ec2.DescribeImagesInput
	subnetRequest       *ec2.DescribeSubnetsInput
	order               []string
}

func (s *stub) read(name string) error {
	s.reads[name]++
	return s.err
}

func (s *stub) DescribeSubnets(_ context.Context, in *ec2.DescribeSubnetsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error) {
	s.subnetRequest = in
	return &ec2.DescribeSubnetsOutput{Subnets: s.subnets}, s.read("subnets")
}

func (s *stub) DescribeVpcs(context.Context, *ec2.DescribeVpcsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcsOutput, error) {
	return &ec2.DescribeVpcsOutput{Vpcs: s.vpcs}, s.read("vpcs")
}

func (s *stub) DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error) {
	return &ec2.DescribeSecurityGroupsOutput{SecurityGroups: s.groups}, s.read("groups")
}

func (s *stub) DescribeImages(_ context.Context, in *ec2.DescribeImagesInput, _ ...func(*ec2.Options)) (*ec2.DescribeImagesOutput, error) {
	s.imageRequest = in
	return &ec2.DescribeImagesOutput{Images: s.images}, s.read("images")
}

func (s *stub) DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error) {
	return &ec2.DescribeInstancesOutput{}, s.read("instances")
}

func (s *stub) RunInstances(_ context.Context, in *ec2.RunInstancesInput, _ ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error) {
	return s.launch(in)
}

func (s *stub) CreateSecurityGroup(_ context.Context, in *ec2.CreateSecurityGroupInput, _ ...func(*ec2.Options)) (*ec2.CreateSecurityGroupOutput, error) {
	s.created = in
	return &ec2.CreateSecurityGroupOutput{GroupId: aws.String("sg-new")}, nil
}

func (s *stub) AuthorizeSecurityGroupIngress(_ context.Context, in *ec2.AuthorizeSecurityGroupIngressInput, _ ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupIngressOutput, error) {
	s.order = append(s.order, "authorize")
	s.authorized = in.IpPermissions
	return &ec2.AuthorizeSecurityGroupIngressOutput{}, nil
}

func (s *stub) RevokeSecurityGroupIngress(_ context.Context, in *ec2.RevokeSecurityGroupIngressInput, _ ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupIngressOutput, error) {
	s.order = append(s.order, "revoke")
	s.revoked = in.IpPermissions
	return &ec2.RevokeSecurityGroupIngressOutput{}, nil
}

// newStub is an account with two subnets in one zone and one in another, a
// security group that is right, and one image.
func newStub(t *testing.T, change func(*Config)) (*Provider, *stub, *clocktesting.FakeClock) {
	t.Helper()
	subnet := func(id, zone string, free int32) types.Subnet {
		return types.Subnet{SubnetId: aws.String(id), AvailabilityZone: aws.String(zone), VpcId: aws.String("vpc-1"), AvailableIpAddressCount: aws.Int32(free)}
	}
	s := &stub{
		reads:   map[string]int{},
		subnets: []types.Subnet{subnet("subnet-a1", "a", 10), subnet("subnet-a2", "a", 20), subnet("subnet-b", "b", 1)},
		vpcs:    []types.Vpc{{VpcId: aws.String("vpc-1"), CidrBlock: aws.String("10.0.0.0/16")}},
		groups: []types.SecurityGroup{{GroupId: aws.String("sg-own"), IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/16")}},
		}}}},
		images: []types.Image{{
			ImageId: aws.String("ami-1"), Architecture: types.ArchitectureValuesX8664, CreationDate: aws.String("2026-01-01T00:00:00.000Z"), RootDeviceName: aws.String("/dev/sda1"),
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(8)}}},
		}},
	}
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	cfg := Config{
		Region: "us-west-2", ControllerID: "c/n/node", Nametag: "prod", Image: ImageSpec{ImageIDs: []string{"ami-1"}},
		SubnetIDs: []string{"subnet-a1", "subnet-a2", "subnet-b"}, Catalogue: catalogue(t), Clock: clk, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	p, err := newProvider(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.ec2 = s
	p.calls.launch.pace = newPace(clk, allowance{1000, 2}, fastest) // the clock stands still
	return p, s, clk
}
