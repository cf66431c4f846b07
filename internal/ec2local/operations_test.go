package ec2local

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/ec2api"
)

// admin calls ec2local's own API.
func (e *endpoint) admin(t *testing.T, method, path string, body any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, e.url+adminPrefix+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, text)
	}
}

// TestEveryOperation calls every operation at least once with everything there is to show, so that the recorder sees
// every answer.
func TestEveryOperation(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.addProfile(t, "other")
	in := e.cell(t)
	in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
	in.Monitoring = &types.RunInstancesMonitoringEnabled{Enabled: aws.Bool(true)}
	in.KeyName = aws.String("key")
	must(e.RunInstances(ctx, in))(t)
	in = e.cell(t)
	in.ClientToken = aws.String("second")
	id := must(e.RunInstances(ctx, in))(t).Instances[0].InstanceId
	e.waitFor(t, *id, types.InstanceStateNameRunning)
	must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5)}))(t)
	must(e.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{IncludeAllInstances: aws.Bool(true)}))(t)
	must(e.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: id}))(t)
	must(e.DescribeImages(ctx, &ec2.DescribeImagesInput{}))(t)
	must(e.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t)
	must(e.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{}))(t)
	must(e.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{}))(t)
	must(e.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{}))(t)
	must(e.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{}))(t)
	must(e.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{}))(t)

	vpc := must(e.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t).Vpcs[0].VpcId
	tags := []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}
	group := must(e.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		GroupName: aws.String("kip"), Description: aws.String("cells"), VpcId: vpc,
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSecurityGroup, Tags: tags}},
	}))(t).GroupId
	rules := []types.IpPermission{
		{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(1), ToPort: aws.Int32(2),
			IpRanges:         []types.IpRange{{CidrIp: aws.String("10.0.0.0/8"), Description: aws.String("all")}},
			Ipv6Ranges:       []types.Ipv6Range{{CidrIpv6: aws.String("fd00::/8")}},
			UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: group}}},
		{IpProtocol: aws.String("icmp"), FromPort: aws.Int32(-1), ToPort: aws.Int32(-1), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}},
		{IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: group}}},
	}
	must(e.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: rules}))(t)
	must(e.AuthorizeSecurityGroupEgress(ctx, &ec2.AuthorizeSecurityGroupEgressInput{GroupId: group, IpPermissions: rules}))(t)
	shown := must(e.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{*group}}))(t).SecurityGroups[0]
	if n, m := len(shown.IpPermissions), len(shown.IpPermissionsEgress); n != 3 || m != 3 {
		t.Errorf("the group has %d and %d permissions", n, m)
	}
	// What is shown can be revoked as it is, which is how people empty a group.
	must(e.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: group, IpPermissions: shown.IpPermissions}))(t)
	must(e.RevokeSecurityGroupEgress(ctx, &ec2.RevokeSecurityGroupEgressInput{GroupId: group, IpPermissions: shown.IpPermissionsEgress}))(t)
	must(e.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: id, SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)}}))(t)
	must(e.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: id, Groups: []string{*group}}))(t)
	if i := e.instance(t, *id); *i.SourceDestCheck || *i.SecurityGroups[0].GroupId != *group {
		t.Errorf("the instance's attributes: %v %v", *i.SourceDestCheck, i.SecurityGroups)
	}
	if _, err := e.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: group}); code(err) != "DependencyViolation" {
		t.Errorf("deleting a group in use: %v", err)
	}

	table := must(e.CreateRouteTable(ctx, &ec2.CreateRouteTableInput{VpcId: vpc,
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeRouteTable, Tags: tags}}}))(t).RouteTable.RouteTableId
	inside := aws.String("192.168.0.0/16")
	must(e.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: table, DestinationCidrBlock: inside, InstanceId: id}))(t)
	must(e.ReplaceRoute(ctx, &ec2.ReplaceRouteInput{RouteTableId: table, DestinationCidrBlock: inside, NetworkInterfaceId: e.instance(t, *id).NetworkInterfaces[0].NetworkInterfaceId}))(t)
	association := must(e.AssociateRouteTable(ctx, &ec2.AssociateRouteTableInput{RouteTableId: table, SubnetId: aws.String(e.subnets(t)[0])}))(t).AssociationId
	must(e.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{}))(t)
	must(e.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: table, DestinationCidrBlock: inside}))(t)
	mainTable, _ := e.mainTable(t)
	association = must(e.ReplaceRouteTableAssociation(ctx, &ec2.ReplaceRouteTableAssociationInput{AssociationId: association, RouteTableId: &mainTable}))(t).NewAssociationId
	must(e.DisassociateRouteTable(ctx, &ec2.DisassociateRouteTableInput{AssociationId: association}))(t)
	must(e.DeleteRouteTable(ctx, &ec2.DeleteRouteTableInput{RouteTableId: table}))(t)

	small := must(e.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: vpc, CidrBlock: aws.String("10.98.100.0/28"),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSubnet, Tags: tags}}}))(t).Subnet.SubnetId
	must(e.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: small}))(t)
	must(e.DescribeDhcpOptions(ctx, &ec2.DescribeDhcpOptionsInput{}))(t)
	// The installed model may be older than the newest types.
	must(e.DescribeSpotPriceHistory(ctx, &ec2.DescribeSpotPriceHistoryInput{InstanceTypes: []types.InstanceType{"t3.micro", "m5.large"}}))(t)
	none := aws.String("i-00000000000000000")
	changed := must(e.ModifyInstanceCreditSpecification(ctx, &ec2.ModifyInstanceCreditSpecificationInput{
		InstanceCreditSpecifications: []types.InstanceCreditSpecificationRequest{
			{InstanceId: id, CpuCredits: aws.String("standard")}, {InstanceId: none, CpuCredits: aws.String("standard")},
		},
	}))(t)
	if len(changed.SuccessfulInstanceCreditSpecifications) != 1 ||
		changed.UnsuccessfulInstanceCreditSpecifications[0].Error.Code != "InvalidInstanceID.NotFound" {
		t.Errorf("changing credits: %+v", changed)
	}
	must(e.DescribeInstanceCreditSpecifications(ctx, &ec2.DescribeInstanceCreditSpecificationsInput{InstanceIds: []string{*id}}))(t)
	profile := &types.IamInstanceProfileSpecification{Name: aws.String("other")}
	if _, err := e.AssociateIamInstanceProfile(ctx, &ec2.AssociateIamInstanceProfileInput{InstanceId: id, IamInstanceProfile: profile}); code(err) != "IncorrectState" {
		t.Errorf("a second instance profile: %v", err)
	}
	in = e.cell(t)
	in.ClientToken, in.IamInstanceProfile = aws.String("third"), nil
	must(e.AssociateIamInstanceProfile(ctx, &ec2.AssociateIamInstanceProfileInput{
		InstanceId: must(e.RunInstances(ctx, in))(t).Instances[0].InstanceId, IamInstanceProfile: profile,
	}))(t)
	must(e.ModifyVolume(ctx, &ec2.ModifyVolumeInput{VolumeId: e.instance(t, *id).BlockDeviceMappings[0].Ebs.VolumeId, Size: aws.Int32(11)}))(t)
	must(e.DescribeVolumesModifications(ctx, &ec2.DescribeVolumesModificationsInput{}))(t)

	e.registerImage(t, tags)

	resources := []string{*id, *vpc, *group, e.subnets(t)[0], *e.instance(t, *id).NetworkInterfaces[0].NetworkInterfaceId,
		*e.instance(t, *id).BlockDeviceMappings[0].Ebs.VolumeId}
	must(e.CreateTags(ctx, &ec2.CreateTagsInput{Resources: resources, Tags: []types.Tag{{Key: aws.String("new"), Value: aws.String("1")}}}))(t)
	byKey := []types.Filter{{Name: aws.String("key"), Values: []string{"new"}}}
	if got := must(e.DescribeTags(ctx, &ec2.DescribeTagsInput{Filters: byKey}))(t).Tags; len(got) != len(resources) {
		t.Errorf("%d of %d tags", len(got), len(resources))
	}
	must(e.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: resources, Tags: []types.Tag{{Key: aws.String("new")}}}))(t)
	if got := must(e.DescribeTags(ctx, &ec2.DescribeTagsInput{Filters: byKey}))(t).Tags; len(got) != 0 {
		t.Errorf("%d tags are left", len(got))
	}
	must(e.DescribeTags(ctx, &ec2.DescribeTagsInput{MaxResults: aws.Int32(5)}))(t)

	must(e.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{*id}}))(t)
	e.waitFor(t, *id, types.InstanceStateNameStopped)
	must(e.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{*id}}))(t)
	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*id}}))(t)
	e.waitFor(t, *id, types.InstanceStateNameTerminated)
	must(e.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: group}))(t)

	for _, op := range ec2api.Operations() {
		if !e.recorder.Operations("ec2")[op] {
			t.Errorf("%s was not tried", op)
		}
	}
}

func TestImages(t *testing.T) {
	e := start(t, nil)
	addImage(t, e.config.Images, "broken", "{")
	cases := map[string]struct {
		reason string
		in     ec2.DescribeImagesInput
		want   []string
	}{
		"all":        {"all that can be read", ec2.DescribeImagesInput{}, []string{"kip-cell", "other"}},
		"own":        {"self is the account", ec2.DescribeImagesInput{Owners: []string{"self"}}, []string{"kip-cell"}},
		"account":    {"by number", ec2.DescribeImagesInput{Owners: []string{"602401143452"}}, []string{"other"}},
		"amazon":     {"by the name of AWS's own accounts", ec2.DescribeImagesInput{Owners: []string{"amazon"}}, []string{"other"}},
		"public":     {"others' images are public", ec2.DescribeImagesInput{ExecutableUsers: []string{"all"}}, []string{"other"}},
		"executable": {"own images are private", ec2.DescribeImagesInput{ExecutableUsers: []string{"self"}}, []string{"kip-cell"}},
		"name": {"with a wildcard", ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"kip-*"}}}},
			[]string{"kip-cell"}},
		"arch": {"by architecture", ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("architecture"), Values: []string{"arm64"}}}},
			[]string{"other"}},
		"tag": {"by tag", ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("tag:version"), Values: []string{"1"}}}},
			[]string{"kip-cell"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := map[string]bool{}
			for _, i := range must(e.DescribeImages(t.Context(), &tc.in))(t).Images {
				got[*i.Name] = true
			}
			want := map[string]bool{}
			for _, name := range tc.want {
				want[name] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestSecurityGroupRefusals(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	group := must(e.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")}))(t).GroupId
	rule := []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80),
		IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/8")}}}}
	add := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: rule}
	must(e.AuthorizeSecurityGroupIngress(ctx, add))(t)
	_, duplicate := e.AuthorizeSecurityGroupIngress(ctx, add)
	revoke := &ec2.RevokeSecurityGroupIngressInput{GroupId: group, IpPermissions: rule}
	must(e.RevokeSecurityGroupIngress(ctx, revoke))(t)
	_, missing := e.RevokeSecurityGroupIngress(ctx, revoke)
	_, twice := e.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")})
	bad := []types.IpPermission{{IpProtocol: aws.String("tcp"), IpRanges: rule[0].IpRanges}}
	_, noPorts := e.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: bad})
	_, unknown := e.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: aws.String("sg-00000000000000000")})
	_, byName := e.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupName: aws.String("none")})
	_, predefined := e.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupName: aws.String("default")})
	for want, err := range map[string]error{
		"InvalidPermission.Duplicate": duplicate, "InvalidPermission.NotFound": missing, "InvalidGroup.Duplicate": twice,
		"MissingParameter": noPorts, "InvalidGroup.NotFound": unknown, "CannotDelete": predefined,
	} {
		if code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if code(byName) != "InvalidGroup.NotFound" {
		t.Errorf("a group that is named but does not exist: %v", byName)
	}
}

// TestCalls reads what was called, as end-to-end tests do.
func TestCalls(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.admin(t, http.MethodDelete, "calls", nil)
	must(e.RunInstances(ctx, e.cell(t)))(t)
	must(e.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t)
	resp, err := http.Get(e.url + adminPrefix + "calls")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Calls  []access.Count
		Denied []access.Denial
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"ec2:RunInstances": 1, "ec2:CreateTags": 1, "ec2:DescribeVpcs": 1}
	for _, c := range got.Calls {
		if want[c.Action] > 0 && c.Allowed < 1 || c.Denied != 0 || c.Principal != "arn:aws:iam::123456789012:user/administrator" {
			t.Errorf("got %+v", c)
		}
		delete(want, c.Action)
	}
	if len(want) > 0 || got.Denied == nil || len(got.Denied) > 0 {
		t.Errorf("%v are missing; %v were denied", want, got.Denied)
	}
}

func TestWhoMayCall(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.client = &http.Client{}
	for name, client := range map[string]*ec2.Client{"unknown key": e.sdk("AKIAOTHER", testSecret), "wrong secret": e.sdk(testKey, "other")} {
		if _, err := client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}); code(err) != "AuthFailure" {
			t.Errorf("%s: %v", name, err)
		}
	}
	resp, err := http.PostForm(e.url, url.Values{"Action": {"DescribeVpcs"}, "Version": {"2016-11-15"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), "<Code>MissingAuthenticationToken</Code>") {
		t.Errorf("without a signature: %s %s %v", resp.Status, body, err)
	}
}
