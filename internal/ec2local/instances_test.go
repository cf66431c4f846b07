package ec2local

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/fault"
)

// image is the ID of the x86_64 image.
func (e *endpoint) image(t *testing.T) string {
	t.Helper()
	out := must(e.DescribeImages(t.Context(), &ec2.DescribeImagesInput{Owners: []string{"self"}}))(t)
	return *out.Images[0].ImageId
}

// subnets are the IDs of the subnets in the order of their zones.
func (e *endpoint) subnets(t *testing.T) []string {
	t.Helper()
	var ids []string
	for _, s := range must(e.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{}))(t).Subnets {
		ids = append(ids, *s.SubnetId)
	}
	return ids
}

// cell is the launch of one instance as Kip makes it.
func (e *endpoint) cell(t *testing.T) *ec2.RunInstancesInput {
	t.Helper()
	tags := []types.Tag{{Key: aws.String("Name"), Value: aws.String("pod")}, {Key: aws.String("KipCell"), Value: aws.String("c1")}}
	in := &ec2.RunInstancesInput{
		ClientToken: aws.String("token-1"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		InstanceType: types.InstanceTypeT3Small, ImageId: aws.String(e.image(t)),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
		UserData:                          aws.String(base64.StdEncoding.EncodeToString([]byte("user data"))),
		BlockDeviceMappings: []types.BlockDeviceMapping{{
			DeviceName: aws.String(cloud.RootDevice),
			Ebs: &types.EbsBlockDevice{
				VolumeSize: aws.Int32(10), VolumeType: types.VolumeTypeGp3, Encrypted: aws.Bool(true), DeleteOnTermination: aws.Bool(true),
			},
		}},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), SubnetId: aws.String(e.subnets(t)[1]), SecondaryPrivateIpAddressCount: aws.Int32(1),
			AssociatePublicIpAddress: aws.Bool(true), DeleteOnTermination: aws.Bool(true),
		}},
		MetadataOptions: &types.InstanceMetadataOptionsRequest{
			HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(2),
		},
		CreditSpecification: &types.CreditSpecificationRequest{CpuCredits: aws.String("unlimited")},
		IamInstanceProfile:  &types.IamInstanceProfileSpecification{Name: aws.String("cells")},
		Placement:           &types.Placement{AvailabilityZone: aws.String("us-west-2b")},
	}
	for _, kind := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface} {
		in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: kind, Tags: tags})
	}
	return in
}

// instance describes one instance.
func (e *endpoint) instance(t *testing.T, id string) types.Instance {
	t.Helper()
	out := must(e.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}}))(t)
	return out.Reservations[0].Instances[0]
}

func (e *endpoint) waitFor(t *testing.T, id string, state types.InstanceStateName) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is %s", id, state), func() bool { return e.instance(t, id).State.Name == state })
}

func TestLifeOfAnInstance(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	run := must(e.RunInstances(ctx, e.cell(t)))(t)
	id := *run.Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)

	i := e.instance(t, id)
	nic := i.NetworkInterfaces[0]
	type facts struct {
		Zone, IP, Pod, Profile, Tokens, Name string
		Hops                                 int32
	}
	got := facts{
		*i.Placement.AvailabilityZone, *i.PrivateIpAddress, *nic.PrivateIpAddresses[1].PrivateIpAddress,
		*i.IamInstanceProfile.Arn, string(i.MetadataOptions.HttpTokens), *i.Tags[1].Value, *i.MetadataOptions.HttpPutResponseHopLimit,
	}
	want := facts{"us-west-2b", "10.98.16.4", "10.98.16.5", "arn:aws:iam::123456789012:instance-profile/cells", "required", "pod", 2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the instance (-want +got):\n%s", diff)
	}
	if i.PublicIpAddress == nil {
		t.Error("no public address")
	}
	spec := e.hypervisor.Machines()[id]
	if spec.VCPUs != 2 || spec.MemoryMiB != 2048 || spec.RootVolumeGiB != 10 || spec.NIC.PrimaryIP.String() != "10.98.16.4/20" ||
		spec.NIC.Gateway.String() != "10.98.16.1" || len(spec.NIC.SecondaryIPs) != 1 || len(spec.NIC.Device) > 15 {
		t.Errorf("the machine: %+v", spec)
	}

	again := must(e.RunInstances(ctx, e.cell(t)))(t)
	if *again.Instances[0].InstanceId != id || *again.ReservationId != *run.ReservationId {
		t.Errorf("the same token launched %s besides %s", *again.Instances[0].InstanceId, id)
	}
	other := e.cell(t)
	other.InstanceType = types.InstanceTypeT3Micro
	if _, err := e.RunInstances(ctx, other); code(err) != "IdempotentParameterMismatch" {
		t.Errorf("the same token for another type: %v", err)
	}
	console := must(e.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: &id}))(t)
	if text, err := base64.StdEncoding.DecodeString(*console.Output); err != nil || len(text) == 0 {
		t.Errorf("console %q: %v", text, err)
	}

	end := must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))(t)
	if ch := end.TerminatingInstances[0]; ch.CurrentState.Name != types.InstanceStateNameShuttingDown {
		t.Errorf("terminating: %s", ch.CurrentState.Name)
	}
	e.waitFor(t, id, types.InstanceStateNameTerminated)
	if n := len(e.hypervisor.Machines()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
	if i := e.instance(t, id); *i.StateReason.Code != "Client.UserInitiatedShutdown" || i.PrivateIpAddress != nil || len(i.Tags) != 2 {
		t.Errorf("the terminated instance: reason %s, address %v, %d tags", *i.StateReason.Code, i.PrivateIpAddress, len(i.Tags))
	}
	if _, err := e.RunInstances(ctx, e.cell(t)); code(err) != "IdempotentInstanceTerminated" {
		t.Errorf("the token of a terminated instance: %v", err)
	}
	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))(t)
}

func TestMachineEndsByItself(t *testing.T) {
	cases := map[string]struct {
		reason    string
		behaviour types.ShutdownBehavior
		want      types.InstanceStateName
	}{
		"terminate": {"cells are launched so", types.ShutdownBehaviorTerminate, types.InstanceStateNameTerminated},
		"stop":      {"EC2's default", types.ShutdownBehaviorStop, types.InstanceStateNameStopped},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e := start(t, nil)
			in := e.cell(t)
			in.InstanceInitiatedShutdownBehavior = tc.behaviour
			id := *must(e.RunInstances(t.Context(), in))(t).Instances[0].InstanceId
			e.waitFor(t, id, types.InstanceStateNameRunning)
			e.hypervisor.End(id)
			e.waitFor(t, id, tc.want)
			if got := *e.instance(t, id).StateReason.Code; got != "Client.InstanceInitiatedShutdown" {
				t.Errorf("%s: the reason is %s", tc.reason, got)
			}
		})
	}
}

func TestStopAndStart(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	in := e.cell(t)
	in.NetworkInterfaces[0].AssociatePublicIpAddress = aws.Bool(true)
	id := *must(e.RunInstances(ctx, in))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	before := e.instance(t, id)
	must(e.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}))(t)
	e.waitFor(t, id, types.InstanceStateNameStopped)
	if e.hypervisor.Running(id) || len(e.hypervisor.Machines()) != 1 {
		t.Error("a stopped instance keeps its disk and nothing else")
	}
	if i := e.instance(t, id); aws.ToString(i.PrivateIpAddress) != *before.PrivateIpAddress || aws.ToString(i.PublicIpAddress) != "" {
		t.Errorf("it has addresses %q and %q; want its private one alone", aws.ToString(i.PrivateIpAddress), aws.ToString(i.PublicIpAddress))
	}
	must(e.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}))(t)
	e.waitFor(t, id, types.InstanceStateNameRunning)
	i := e.instance(t, id)
	if aws.ToString(i.PrivateIpAddress) != *before.PrivateIpAddress || aws.ToString(i.PublicIpAddress) == "" || !i.LaunchTime.After(*before.LaunchTime) {
		t.Errorf("it has addresses %q and %q, since %s", aws.ToString(i.PrivateIpAddress), aws.ToString(i.PublicIpAddress), i.LaunchTime)
	}
}

func TestRestartOfEc2local(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	before := e.instance(t, id)
	e.restart(t)
	if diff := cmp.Diff(before, e.instance(t, id), cmp.AllowUnexported(types.Instance{}), cmp.FilterPath(
		func(p cmp.Path) bool { return p.Last().String() == ".noSmithyDocumentSerde" }, cmp.Ignore())); diff != "" {
		t.Errorf("the instance changed (-before +after):\n%s", diff)
	}
	if again := must(e.RunInstances(ctx, e.cell(t)))(t); *again.Instances[0].InstanceId != id {
		t.Error("the token is forgotten")
	}
	e.stop()
	e.hypervisor.Kill(id)
	e.restart(t)
	e.waitFor(t, id, types.InstanceStateNameTerminated)
}

func TestRunInstancesRefusals(t *testing.T) {
	e := start(t, nil)
	cases := map[string]struct {
		reason string
		change func(*ec2.RunInstancesInput)
		want   string
	}{
		"type":      {"no such type", func(in *ec2.RunInstancesInput) { in.InstanceType = "t3.gigantic" }, "InvalidParameterValue"},
		"image":     {"no such image", func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("ami-00000000000000000") }, "InvalidAMIID.NotFound"},
		"malformed": {"not an image's ID", func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("cell") }, "InvalidAMIID.Malformed"},
		"arch":      {"x86 image on an arm type", func(in *ec2.RunInstancesInput) { in.InstanceType = "t4g.small" }, "InvalidParameterValue"},
		"zone": {"zone and subnet differ", func(in *ec2.RunInstancesInput) {
			in.Placement.AvailabilityZone = aws.String("us-west-2a")
		}, "InvalidParameterValue"},
		"subnet": {"no such subnet", func(in *ec2.RunInstancesInput) {
			in.NetworkInterfaces[0].SubnetId = aws.String("subnet-00000000000000000")
		}, "InvalidSubnetID.NotFound"},
		"group": {"no such group", func(in *ec2.RunInstancesInput) {
			in.NetworkInterfaces[0].Groups = []string{"sg-00000000000000000"}
		}, "InvalidGroup.NotFound"},
		"addresses": {"t3.small has four per interface", func(in *ec2.RunInstancesInput) {
			in.NetworkInterfaces[0].SecondaryPrivateIpAddressCount = aws.Int32(4)
		}, "PrivateIpAddressLimitExceeded"},
		"two places": {"a subnet is named once", func(in *ec2.RunInstancesInput) { in.SubnetId = in.NetworkInterfaces[0].SubnetId }, "InvalidParameterCombination"},
		"user data": {"too much", func(in *ec2.RunInstancesInput) {
			in.UserData = aws.String(base64.StdEncoding.EncodeToString(make([]byte, 16<<10+1)))
		}, "InvalidParameterValue"},
		"base64":  {"not base64", func(in *ec2.RunInstancesInput) { in.UserData = aws.String("!") }, "InvalidUserData.Malformed"},
		"credits": {"not burstable", func(in *ec2.RunInstancesInput) { in.InstanceType = "m5.large" }, "InvalidParameterCombination"},
		"volume": {"smaller than the image", func(in *ec2.RunInstancesInput) {
			in.BlockDeviceMappings[0].Ebs.VolumeSize = aws.Int32(1)
		}, "InvalidBlockDeviceMapping"},
		"second volume": {"only the root volume", func(in *ec2.RunInstancesInput) {
			in.BlockDeviceMappings[0].DeviceName = aws.String("/dev/xvdb")
		}, "Unsupported"},
		"hops":   {"out of range", func(in *ec2.RunInstancesInput) { in.MetadataOptions.HttpPutResponseHopLimit = aws.Int32(65) }, "InvalidParameterValue"},
		"counts": {"least above most", func(in *ec2.RunInstancesInput) { in.MinCount = aws.Int32(2) }, "InvalidParameterValue"},
		"tags": {"reserved", func(in *ec2.RunInstancesInput) {
			in.TagSpecifications[0].Tags = []types.Tag{{Key: aws.String("aws:x"), Value: aws.String("")}}
		}, "InvalidParameterValue"},
		"kind of tags": {"no template is made", func(in *ec2.RunInstancesInput) {
			in.TagSpecifications[0].ResourceType = types.ResourceTypeLaunchTemplate
		}, "InvalidParameterValue"},
		"unknown": {"what ec2local cannot do is refused", func(in *ec2.RunInstancesInput) {
			in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(true)}
		}, "UnknownParameter"},
		"dry run": {"all would be well", func(in *ec2.RunInstancesInput) { in.DryRun = aws.Bool(true) }, "DryRunOperation"},
		"persistent spot": {"one-time only", func(in *ec2.RunInstancesInput) {
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: "spot",
				SpotOptions: &types.SpotMarketOptions{SpotInstanceType: types.SpotInstanceTypePersistent}}
		}, "Unsupported"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := e.cell(t)
			in.ClientToken = nil
			tc.change(in)
			if _, err := e.RunInstances(t.Context(), in); code(err) != tc.want {
				t.Errorf("%s: got %v, want %s", tc.reason, err, tc.want)
			}
		})
	}
	if n := len(e.hypervisor.Machines()); n != 0 {
		t.Errorf("%d machines were made", n)
	}
}

func TestSubnetRunsFull(t *testing.T) {
	e, ctx := start(t, func(c *Config) { c.VPC = netip.MustParsePrefix("10.98.0.0/20") }), t.Context()
	in := &ec2.RunInstancesInput{
		ImageId: aws.String(e.image(t)), InstanceType: "t3.small", SubnetId: aws.String(e.subnets(t)[0]),
		MinCount: aws.Int32(251), MaxCount: aws.Int32(251),
	}
	free := func() int32 {
		return *must(e.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{*in.SubnetId}}))(t).Subnets[0].AvailableIpAddressCount
	}
	if got := free(); got != 251 {
		t.Errorf("a /24 has %d addresses", got)
	}
	must(e.RunInstances(ctx, in))(t)
	if got := free(); got != 0 {
		t.Errorf("%d addresses are left", got)
	}
	in.MinCount, in.MaxCount, in.ClientToken = aws.Int32(1), aws.Int32(1), nil
	if _, err := e.RunInstances(ctx, in); code(err) != "InsufficientFreeAddressesInSubnet" {
		t.Errorf("the subnet is full: %v", err)
	}
}

func TestDescribeInstances(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	var ids []string
	for n := range 12 {
		in := e.cell(t)
		in.ClientToken = aws.String(fmt.Sprint("token-", n))
		in.TagSpecifications[0].Tags[1].Value = aws.String(fmt.Sprint("cell-", n))
		ids = append(ids, *must(e.RunInstances(ctx, in))(t).Instances[0].InstanceId)
	}
	e.waitFor(t, ids[11], types.InstanceStateNameRunning)
	filter := func(name string, values ...string) []types.Filter {
		return []types.Filter{{Name: &name, Values: values}}
	}
	cases := map[string]struct {
		reason  string
		filters []types.Filter
		want    []string
	}{
		"tag":      {"exact value", filter("tag:KipCell", "cell-3"), ids[3:4]},
		"wildcard": {"one character", filter("tag:KipCell", "cell-?"), ids[:10]},
		"star":     {"any characters", filter("tag:KipCell", "c*1"), []string{ids[1], ids[11]}},
		"values":   {"one of several", filter("tag:KipCell", "cell-1", "cell-2"), ids[1:3]},
		"key":      {"whatever the value", filter("tag-key", "KipCell"), ids},
		"both": {"all filters must hold", append(filter("tag:KipCell", "cell-1?"), filter("client-token", "token-10")...),
			ids[10:11]},
		"address":   {"the pod's address", filter("network-interface.addresses.private-ip-address", "10.98.16.7"), ids[1:2]},
		"primary":   {"the instance's address", filter("private-ip-address", "10.98.16.7"), nil},
		"interface": {"its subnet", filter("network-interface.subnet-id", e.subnets(t)[0]), nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			out := must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: tc.filters}))(t)
			if diff := cmp.Diff(tc.want, idsOf(out.Reservations)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	t.Run("pages", func(t *testing.T) {
		var got []string
		pages := ec2.NewDescribeInstancesPaginator(e.Client, &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5)})
		for n := 0; pages.HasMorePages(); n++ {
			got = append(got, idsOf(must(pages.NextPage(ctx))(t).Reservations)...)
			// Others come and go meanwhile; none of those that stay may be seen twice or not at all.
			if n == 0 {
				in := e.cell(t)
				in.ClientToken = aws.String("token-late")
				must(e.RunInstances(ctx, in))(t)
			}
		}
		if diff := cmp.Diff(ids, got[:12]); diff != "" || len(got) != 13 {
			t.Errorf("%d instances (-want +got):\n%s", len(got), diff)
		}
	})
	for name, in := range map[string]*ec2.DescribeInstancesInput{
		"InvalidInstanceID.NotFound":  {InstanceIds: []string{"i-00000000000000000"}},
		"InvalidInstanceID.Malformed": {InstanceIds: []string{"i-xyz"}},
		"InvalidParameterValue":       {Filters: filter("colour", "red")},
		"InvalidNextToken":            {NextToken: aws.String("x")},
		"InvalidParameterCombination": {InstanceIds: ids[:1], MaxResults: aws.Int32(5)},
		"DryRunOperation":             {DryRun: aws.Bool(true)},
	} {
		if _, err := e.DescribeInstances(ctx, in); code(err) != name {
			t.Errorf("got %v, want %s", err, name)
		}
	}
}

func idsOf(reservations []types.Reservation) []string {
	var out []string
	for _, r := range reservations {
		for _, i := range r.Instances {
			out = append(out, *i.InstanceId)
		}
	}
	return out
}

func TestCapacityFaults(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.admin(t, "PUT", "faults", []fault.Rule{{InstanceType: "t3.*", Zone: "us-west-2b", CapacityType: "on-demand"}})
	if _, err := e.RunInstances(ctx, e.cell(t)); code(err) != "InsufficientInstanceCapacity" {
		t.Errorf("no capacity: %v", err)
	}
	spot := e.cell(t)
	spot.ClientToken = aws.String("spot")
	spot.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
	if i := must(e.RunInstances(ctx, spot))(t).Instances[0]; i.InstanceLifecycle != types.InstanceLifecycleTypeSpot {
		t.Errorf("the life cycle is %q", i.InstanceLifecycle)
	}
	e.admin(t, "PUT", "faults", []fault.Rule{})
	must(e.RunInstances(ctx, e.cell(t)))(t)
}

func TestSpotInterruption(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	in := e.cell(t)
	in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
	id := *must(e.RunInstances(ctx, in))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	e.admin(t, "POST", "instances/"+id+"/rebalance", nil)
	e.admin(t, "POST", "instances/"+id+"/interrupt?after=50ms", nil)
	e.waitFor(t, id, types.InstanceStateNameTerminated)
	if got := *e.instance(t, id).StateReason.Code; got != "Server.SpotInstanceTermination" {
		t.Errorf("the reason is %s", got)
	}
}

func TestMachineDoesNotStart(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.hypervisor.SetFault(func(op, _ string) error {
		if op == "Start" {
			return fmt.Errorf("no room")
		}
		return nil
	})
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameTerminated)
	if got := *e.instance(t, id).StateReason.Code; got != "Server.InternalError" {
		t.Errorf("the reason is %s", got)
	}
}

// TestMachineDoesNotStartAgain: an instance with a past keeps its disk.
func TestMachineDoesNotStartAgain(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	must(e.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}))(t)
	e.waitFor(t, id, types.InstanceStateNameStopped)
	tried := make(chan struct{}, 1)
	e.hypervisor.SetFault(func(op, _ string) error {
		if op == "Start" {
			tried <- struct{}{}
			return fmt.Errorf("no room")
		}
		return nil
	})
	must(e.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}}))(t)
	<-tried
	e.waitFor(t, id, types.InstanceStateNameStopped)
	if got := *e.instance(t, id).StateReason.Code; got != "Server.InternalError" {
		t.Errorf("the reason is %s", got)
	}
}
