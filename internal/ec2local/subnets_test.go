package ec2local

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// free is how many addresses a subnet has left.
func (e *endpoint) free(t *testing.T, subnet string) int32 {
	t.Helper()
	return *must(e.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{SubnetIds: []string{subnet}}))(t).Subnets[0].AvailableIpAddressCount
}

// launchIn launches cells of two addresses into a subnet.
func (e *endpoint) launchIn(t *testing.T, subnet, token string, least, most int32) ([]types.Instance, error) {
	t.Helper()
	in := e.cell(t)
	in.ClientToken, in.MinCount, in.MaxCount, in.Placement = &token, &least, &most, nil
	in.NetworkInterfaces[0].SubnetId = &subnet
	out, err := e.RunInstances(t.Context(), in)
	if err != nil {
		return nil, err
	}
	return out.Instances, nil
}

// TestSubnetFills uses all addresses of the smallest subnet that there can be: 16, of which EC2 keeps 5.
func TestSubnetFills(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	_, vpc := e.mainTable(t)
	made := must(e.CreateSubnet(ctx, &ec2.CreateSubnetInput{
		VpcId: &vpc, CidrBlock: aws.String("10.98.100.0/28"), AvailabilityZone: aws.String("us-west-2c"),
	}))(t).Subnet
	subnet := *made.SubnetId
	if *made.AvailableIpAddressCount != 11 || *made.AvailabilityZone != "us-west-2c" || *made.DefaultForAz {
		t.Errorf("the new subnet: %+v", made)
	}
	// Five cells fit. A launch that wants two or more of the one that is left gets none, one that takes what it gets does.
	four, err := e.launchIn(t, subnet, "four", 4, 4)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.free(t, subnet); got != 3 {
		t.Errorf("%d addresses are left after four cells, want 3", got)
	}
	if _, err := e.launchIn(t, subnet, "two", 2, 2); code(err) != "InsufficientFreeAddressesInSubnet" {
		t.Errorf("two more cells: %v", err)
	}
	if got := e.free(t, subnet); got != 3 {
		t.Errorf("a refused launch left %d addresses, want 3", got)
	}
	if one, err := e.launchIn(t, subnet, "one or two", 1, 2); err != nil || len(one) != 1 {
		t.Errorf("as many cells as fit: %d, %v; want 1", len(one), err)
	}
	if _, err := e.launchIn(t, subnet, "sixth", 1, 1); code(err) != "InsufficientFreeAddressesInSubnet" {
		t.Errorf("a sixth cell: %v", err)
	}
	seen := map[string]bool{}
	for _, i := range must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(t).Reservations {
		for _, a := range i.Instances[0].NetworkInterfaces[0].PrivateIpAddresses {
			seen[*a.PrivateIpAddress] = true
		}
	}
	for _, kept := range []string{"10.98.100.0", "10.98.100.1", "10.98.100.2", "10.98.100.3", "10.98.100.15"} {
		if seen[kept] {
			t.Errorf("%s was given away", kept)
		}
	}
	if _, err := e.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &subnet}); code(err) != "DependencyViolation" {
		t.Errorf("deleting a subnet with cells: %v", err)
	}
	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*four[0].InstanceId}}))(t)
	e.waitFor(t, *four[0].InstanceId, types.InstanceStateNameTerminated)
	if got := e.free(t, subnet); got != 3 {
		t.Errorf("%d addresses are left when a cell is gone, want 3", got)
	}
	if _, err := e.launchIn(t, subnet, "again", 1, 1); err != nil {
		t.Errorf("in place of the one that is gone: %v", err)
	}
	e.restart(t)
	if got := e.free(t, subnet); got != 1 {
		t.Errorf("%d addresses are left after a restart, want 1", got)
	}
}

func TestCreateSubnetRefusals(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	_, vpc := e.mainTable(t)
	cases := map[string]struct{ reason, cidr, zone, want string }{
		"outside":   {"not of the VPC", "10.99.0.0/24", "", "InvalidSubnet.Range"},
		"small":     {"smaller than /28", "10.98.100.0/29", "", "InvalidSubnet.Range"},
		"large":     {"larger than the VPC", "10.0.0.0/8", "", "InvalidSubnet.Range"},
		"taken":     {"a part of another subnet", "10.98.16.0/24", "", "InvalidSubnet.Conflict"},
		"host":      {"where this machine is", "10.98.255.0/28", "", "InvalidSubnet.Conflict"},
		"malformed": {"no range", "10.98.100.0", "", "InvalidParameterValue"},
		"zone":      {"another region's", "10.98.100.0/28", "eu-west-1a", "InvalidParameterValue"},
		"right":     {"host bits are dropped", "10.98.100.7/28", "us-west-2b", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := &ec2.CreateSubnetInput{VpcId: &vpc, CidrBlock: &tc.cidr}
			if tc.zone != "" {
				in.AvailabilityZone = &tc.zone
			}
			if _, err := e.CreateSubnet(ctx, in); code(err) != tc.want {
				t.Errorf("%s: got %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}
