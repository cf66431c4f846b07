package aws

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// received is a launch as an EC2 endpoint has it: the request on the wire, and
// what the Describe calls of a stranger say of the result.
type received struct {
	form     url.Values
	instance types.Instance
	volume   types.Volume
	nic      types.NetworkInterface
}

// client is a reader with nothing of Kip's.
func (e *endpoint) client() *ec2.Client {
	return ec2.New(ec2.Options{
		Region: "us-west-2", BaseEndpoint: aws.String(e.url),
		Credentials: credentials.NewStaticCredentialsProvider(testKey, testSecret, ""),
	})
}

func (e *endpoint) receive(t *testing.T, p *Provider, req cloudprovider.LaunchRequest) received {
	t.Helper()
	got, err := p.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	client := e.client()
	instances, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{got.ID}})
	if err != nil {
		t.Fatal(err)
	}
	own := []types.Filter{filter("attachment.instance-id", got.ID)}
	volumes, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{Filters: own})
	if err != nil {
		t.Fatal(err)
	}
	nics, err := client.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{Filters: own})
	if err != nil {
		t.Fatal(err)
	}
	if len(instances.Reservations) != 1 || len(volumes.Volumes) != 1 || len(nics.NetworkInterfaces) != 1 {
		t.Fatalf("got %d reservations, %d volumes, %d interfaces; want one of each",
			len(instances.Reservations), len(volumes.Volumes), len(nics.NetworkInterfaces))
	}
	form, _ := e.launched.Load().(url.Values)
	return received{form, instances.Reservations[0].Instances[0], volumes.Volumes[0], nics.NetworkInterfaces[0]}
}

func tagMap(tags []types.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}

// TestEverythingIsInOneLaunch: no second call completes the instance, so it is
// right from its first moment or not there at all.
func TestEverythingIsInOneLaunch(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "c/n/node")
	group, err := p.grp.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	extra, err := e.client().CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{GroupName: aws.String("efs"), Description: aws.String("x")})
	if err != nil {
		t.Fatal(err)
	}
	p.cfg.ExtraSecurityGroups = []string{aws.ToString(extra.GroupId)}
	req := request("token")
	req.Launch.CapacityType = v1beta1.Spot
	e.instanceProfile(t, "reader")
	req.Instance.InstanceProfile = "reader"
	req.VolumeGiB, req.CPU, req.UserData = 33, resource.MustParse("1500m"), []byte("user data")
	r := e.receive(t, p, req)

	tags := map[string]string{
		"KipControllerID": "c/n/node", "KipNametag": "kip", "KipNamespace": "default", "KipPodName": "web",
		"KipCell": "cell", "KipCellUID": "uid", "Name": "kip/default/web",
	}
	var groups []string
	for _, g := range r.nic.Groups {
		groups = append(groups, aws.ToString(g.GroupId))
	}
	slices.Sort(groups)
	wantGroups := []string{group, aws.ToString(extra.GroupId)}
	slices.Sort(wantGroups)
	for name, c := range map[string]struct{ got, want any }{
		"type":                {string(r.instance.InstanceType), "t3.micro"},
		"zone":                {aws.ToString(r.instance.Placement.AvailabilityZone), "us-west-2b"},
		"token":               {aws.ToString(r.instance.ClientToken), "token"},
		"bought as spot":      {string(r.instance.InstanceLifecycle), "spot"},
		"profile":             {strings.HasSuffix(aws.ToString(r.instance.IamInstanceProfile.Arn), ":instance-profile/reader"), true},
		"IMDSv2":              {string(r.instance.MetadataOptions.HttpTokens), "required"},
		"hops for a profile":  {aws.ToInt32(r.instance.MetadataOptions.HttpPutResponseHopLimit), int32(2)},
		"shutdown":            {r.form.Get("InstanceInitiatedShutdownBehavior"), "terminate"},
		"credits":             {r.form.Get("CreditSpecification.CpuCredits"), "unlimited"},
		"user data":           {r.form.Get("UserData"), "dXNlciBkYXRh"},
		"volume encrypted":    {aws.ToBool(r.volume.Encrypted), true},
		"volume size":         {aws.ToInt32(r.volume.Size), int32(33)},
		"volume type":         {string(r.volume.VolumeType), "gp3"},
		"volume ends with it": {aws.ToBool(r.volume.Attachments[0].DeleteOnTermination), true},
		"NIC ends with it":    {aws.ToBool(r.nic.Attachment.DeleteOnTermination), true},
		"addresses":           {len(r.nic.PrivateIpAddresses), 2},
		"groups":              {groups, wantGroups},
		"tags":                {tagMap(r.instance.Tags), tags},
		"volume's tags":       {tagMap(r.volume.Tags), tags},
		"NIC's tags":          {tagMap(r.nic.TagSet), tags},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if n := e.launches.Load(); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
}

// TestPublicAddressIsChosen: said in every launch, since a subnet has its own
// idea of it.
func TestPublicAddressIsChosen(t *testing.T) {
	e := newEndpoint(t)
	yes, no := true, false
	for name, tc := range map[string]struct {
		configured bool
		pod        *bool
		want       string
	}{
		"by default":               {false, nil, "true"},
		"private by configuration": {true, nil, "false"},
		"private by annotation":    {false, &yes, "false"},
		"public by annotation":     {true, &no, "true"},
	} {
		t.Run(name, func(t *testing.T) {
			p := e.provider(t, "c/n/node")
			p.cfg.PrivateIPOnly = tc.configured
			req := request(name)
			req.Instance.PrivateIPOnly = tc.pod
			r := e.receive(t, p, req)
			if got := r.form.Get("NetworkInterface.1.AssociatePublicIpAddress"); got != tc.want {
				t.Errorf("associate a public address: %q, want %s", got, tc.want)
			}
			if has := r.instance.PublicIpAddress != nil; has != (tc.want == "true") {
				t.Errorf("public address %q", aws.ToString(r.instance.PublicIpAddress))
			}
		})
	}
}

// TestSubnetsByTagOverEC2Local: the filter is one that EC2's rules accept.
func TestSubnetsByTagOverEC2Local(t *testing.T) {
	e := newEndpoint(t)
	all, err := e.client().DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{Filters: []types.Filter{filter("availability-zone", "us-west-2c")}})
	if err != nil || len(all.Subnets) != 1 {
		t.Fatalf("%d subnets, %v", len(all.Subnets), err)
	}
	if _, err := e.client().CreateTags(t.Context(), &ec2.CreateTagsInput{
		Resources: []string{aws.ToString(all.Subnets[0].SubnetId)}, Tags: []types.Tag{tag("Name", "for cells c"), tag("kubernetes.io/role/internal-elb", "1")},
	}); err != nil {
		t.Fatal(err)
	}
	p := e.provider(t, "c/n/node")
	p.cfg.SubnetTags = map[string][]string{"Name": {"for cells ?"}, "kubernetes.io/role/internal-elb": {"1"}}
	zones, err := p.Zones(t.Context())
	if diff := cmp.Diff([]string{"us-west-2c"}, zones); diff != "" || err != nil {
		t.Errorf("zones (-want +got):\n%s (%v)", diff, err)
	}
}

// TestPassRoleIsNamed: the action that lacks is not the one that was called.
func TestPassRoleIsNamed(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "c/n/node")
	e.fault(t, `[{"count":1,"code":"UnauthorizedOperation","message":"You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/kip/x is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/reader"}]`)
	req := request("token")
	e.instanceProfile(t, "reader")
	req.Instance.InstanceProfile = "reader"
	_, err := p.Create(t.Context(), req)
	if cloudprovider.KindOf(err) != cloudprovider.Denied || !strings.HasPrefix(err.Error(), "iam:PassRole: ") {
		t.Errorf("got %v, want Denied of iam:PassRole", err)
	}
}
