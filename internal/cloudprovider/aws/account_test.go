package aws

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func TestSubnetChoice(t *testing.T) {
	p, s, clk := newStub(t, nil)
	choose := func(zone string) string {
		t.Helper()
		got, err := p.nets.choose(t.Context(), zone)
		if err != nil {
			return string(cloudprovider.KindOf(err))
		}
		return got.id
	}
	// a2 has 20 addresses and a1 has 10: five cells later they are even.
	var got []string
	for range 7 {
		got = append(got, choose("a"))
	}
	if want := strings.Repeat("subnet-a2 ", 5) + "subnet-a1 subnet-a2"; strings.Join(got, " ") != want {
		t.Errorf("chose %q, want the one with most room each time", got)
	}
	if got := choose("b"); got != string(cloudprovider.SubnetFull) {
		t.Errorf("one address is not enough for a cell: %s", got)
	}
	if got := choose("c"); got != string(cloudprovider.InvalidConfiguration) {
		t.Errorf("a zone without a subnet: %s", got)
	}
	zones, err := p.Zones(t.Context())
	if diff := cmp.Diff([]string{"a"}, zones); diff != "" || err != nil {
		t.Errorf("zones (-want +got):\n%s (%v)", diff, err)
	}
	if s.reads["subnets"] != 1 {
		t.Errorf("subnets read %d times, want once", s.reads["subnets"])
	}
	// Cells ended: while a subnet looks full it is read again soon.
	s.subnets[2].AvailableIpAddressCount = aws.Int32(50)
	clk.Step(fullRecheck + time.Second)
	if got := choose("b"); got != "subnet-b" {
		t.Errorf("chose %s", got)
	}
}

func TestSubnetSelection(t *testing.T) {
	local := types.Subnet{SubnetId: aws.String("subnet-lax"), AvailabilityZone: aws.String("us-west-2-lax-1a"),
		VpcId: aws.String("vpc-1"), AvailableIpAddressCount: aws.Int32(99)}
	outpost := local
	outpost.SubnetId, outpost.AvailabilityZone, outpost.OutpostArn = aws.String("subnet-out"), aws.String("us-west-2a"), aws.String("arn:aws:outposts:…")
	native := outpost
	native.SubnetId, native.OutpostArn, native.Ipv6Native = aws.String("subnet-six"), nil, aws.Bool(true)
	for name, tc := range map[string]struct {
		reason  string
		config  func(*Config)
		filters map[string]string
		want    []string
		err     string // part of it
	}{
		"the VPC's": {
			"all that are in the region's own zones and have IPv4",
			func(c *Config) { c.VPCID, c.SubnetIDs = "vpc-1", nil },
			map[string]string{"vpc-id": "vpc-1"}, []string{"subnet-a1", "subnet-a2", "subnet-b"}, "",
		},
		"by tag": {
			"every key with one of its values; the VPC follows",
			func(c *Config) {
				c.SubnetIDs, c.SubnetTags = nil, map[string][]string{"Name": {"x", "y*"}, "role": {"1"}}
			},
			map[string]string{"tag:Name": "x,y*", "tag:role": "1"}, []string{"subnet-a1", "subnet-a2", "subnet-b"}, "",
		},
		"by tag in a VPC": {
			"both restrict",
			func(c *Config) {
				c.VPCID, c.SubnetIDs, c.SubnetTags = "vpc-1", nil, map[string][]string{"role": {"1"}}
			},
			map[string]string{"vpc-id": "vpc-1", "tag:role": "1"}, []string{"subnet-a1", "subnet-a2", "subnet-b"}, "",
		},
		"by ID": {
			"who names a Local Zone or an Outpost wants it",
			func(c *Config) { c.SubnetIDs = []string{"subnet-lax", "subnet-out"} },
			map[string]string{}, []string{"subnet-a1", "subnet-a2", "subnet-b", "subnet-lax", "subnet-out"}, "",
		},
		"none": {
			"the error says what was looked for and what was left out",
			func(c *Config) {
				c.VPCID, c.SubnetIDs, c.SubnetTags = "vpc-1", nil, map[string][]string{"Name": {"x"}, "role": {"1"}}
			},
			nil, nil, "there is no subnet in vpc-1 with tag Name=x and tag role=1, but for 2 in Local Zones or on Outposts",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, s, _ := newStub(t, tc.config)
			s.subnets = append(s.subnets, local, outpost, native)
			if tc.err != "" {
				s.subnets = s.subnets[3:]
			}
			net, err := p.nets.get(t.Context())
			if tc.err != "" {
				if cloudprovider.KindOf(err) != cloudprovider.InvalidConfiguration || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s: error %v, want %q", tc.reason, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range net.subnets {
				got = append(got, s.id)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			filters := map[string]string{}
			for _, f := range s.subnetRequest.Filters {
				filters[aws.ToString(f.Name)] = strings.Join(f.Values, ",")
			}
			if diff := cmp.Diff(tc.filters, filters); diff != "" {
				t.Errorf("%s: filters (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestStaleNetworkIsBetterThanNone(t *testing.T) {
	p, s, clk := newStub(t, nil)
	s.err = errors.New("unreachable")
	if _, err := p.nets.get(t.Context()); err == nil {
		t.Fatal("nothing was read yet, want an error")
	}
	s.err = nil
	if _, err := p.nets.get(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.err = errors.New("unreachable")
	clk.Step(networkTTL)
	if _, err := p.nets.get(t.Context()); err != nil {
		t.Errorf("what was read before must do: %v", err)
	}
}

func TestSubnetsOfTwoVPCs(t *testing.T) {
	p, s, _ := newStub(t, nil)
	s.subnets[1].VpcId = aws.String("vpc-2")
	if _, err := p.nets.get(t.Context()); cloudprovider.KindOf(err) != cloudprovider.InvalidConfiguration || !strings.Contains(err.Error(), "subnet-a2") {
		t.Errorf("got %v, want an error that names the subnet", err)
	}
}

func TestSecurityGroupRules(t *testing.T) {
	all := func(cidrs ...string) types.IpPermission {
		p := types.IpPermission{IpProtocol: aws.String("-1")}
		for _, c := range cidrs {
			p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: aws.String(c)})
		}
		return p
	}
	cidrs := func(perms []types.IpPermission) (out []string) {
		for _, p := range perms {
			for _, r := range p.IpRanges {
				out = append(out, aws.ToString(p.IpProtocol)+" "+aws.ToString(r.CidrIp))
			}
		}
		return out
	}
	ssh := types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22),
		IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/16")}}}
	for name, tc := range map[string]struct {
		reason             string
		have               []types.IpPermission
		authorized, revoke []string
	}{
		"as wanted":       {reason: "nothing to do", have: []types.IpPermission{all("10.0.0.0/16", "172.16.0.0/12")}},
		"empty":           {reason: "a new group", authorized: []string{"-1 10.0.0.0/16", "-1 172.16.0.0/12"}},
		"one is missing":  {reason: "extraCIDRs grew", have: []types.IpPermission{all("10.0.0.0/16")}, authorized: []string{"-1 172.16.0.0/12"}},
		"open to anybody": {reason: "only that range goes", have: []types.IpPermission{all("10.0.0.0/16", "0.0.0.0/0", "172.16.0.0/12")}, revoke: []string{"-1 0.0.0.0/0"}},
		"a port":          {reason: "it is Kip's own group", have: []types.IpPermission{all("10.0.0.0/16", "172.16.0.0/12"), ssh}, revoke: []string{"tcp 10.0.0.0/16"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, s, _ := newStub(t, func(c *Config) { c.ExtraCIDRs = []string{"172.16.0.0/12"} })
			s.groups[0].IpPermissions = tc.have
			if _, err := p.grp.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.authorized, cidrs(s.authorized)); diff != "" {
				t.Errorf("%s: authorized (-want +got):\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.revoke, cidrs(s.revoked)); diff != "" {
				t.Errorf("%s: revoked (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestSecurityGroupIsMade(t *testing.T) {
	p, s, _ := newStub(t, nil)
	s.groups = nil
	id, err := p.grp.get(t.Context())
	if err != nil || id != "sg-new" {
		t.Fatalf("got %q, %v", id, err)
	}
	if got := tagValue(s.created.TagSpecifications[0].Tags, tagController); got != "c/n/node" || aws.ToString(s.created.VpcId) != "vpc-1" {
		t.Errorf("created %+v, want it tagged and in the VPC", s.created)
	}
	if len(s.authorized) != 1 {
		t.Errorf("authorized %+v", s.authorized)
	}
}

func TestImageChoice(t *testing.T) {
	p, s, clk := newStub(t, func(c *Config) {
		c.Image = ImageSpec{Owners: []string{"self"}, Filters: []ImageFilter{{"name", []string{"cell-*"}}}}
	})
	add := func(id, date string, a types.ArchitectureValues) {
		s.images = append(s.images, types.Image{ImageId: aws.String(id), CreationDate: aws.String(date + "T00:00:00.000Z"), Architecture: a})
	}
	choose := func(architecture string) string {
		t.Helper()
		got, err := p.imgs.get(t.Context(), architecture)
		if err != nil {
			return string(cloudprovider.KindOf(err))
		}
		return got.id + " " + got.rootDevice
	}
	if got := choose("arm64"); got != string(cloudprovider.InvalidConfiguration) {
		t.Errorf("got %s, want a refusal: there is none", got)
	}
	if got := choose(""); got != "ami-1 /dev/sda1" {
		t.Errorf("got %s, want the image for amd64", got)
	}
	if have, err := p.Architectures(t.Context()); err != nil || !slices.Equal(have, []string{"amd64"}) {
		t.Errorf("images for %v, %v", have, err)
	}
	filters := map[string]string{}
	for _, f := range s.imageRequest.Filters {
		filters[aws.ToString(f.Name)] = strings.Join(f.Values, ",")
	}
	if diff := cmp.Diff(map[string]string{"architecture": "x86_64,arm64", "state": "available", "name": "cell-*"}, filters); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	if s.reads["images"] != 1 {
		t.Errorf("images read %d times, want once for all", s.reads["images"])
	}
	// One that is missed is looked for more often than newer ones of those that are there.
	add("ami-2", "2026-02-01", types.ArchitectureValuesArm64)
	add("ami-0", "2025-02-01", types.ArchitectureValuesArm64)
	add("ami-3", "2026-03-01", types.ArchitectureValuesX8664)
	clk.Step(imageMissingFor)
	if got := choose("amd64"); got != "ami-1 /dev/sda1" {
		t.Errorf("got %s, want the image found before", got)
	}
	if got := choose("arm64"); got != "ami-2 /dev/xvda" {
		t.Errorf("got %s, want the newest for arm64", got)
	}
	if got := choose("amd64"); got != "ami-3 /dev/xvda" {
		t.Errorf("got %s, want the image that came later", got)
	}
	add("ami-4", "2026-04-01", types.ArchitectureValuesX8664)
	clk.Step(imageTTL)
	if got := choose("amd64"); got != "ami-4 /dev/xvda" {
		t.Errorf("got %s, want the image that came later", got)
	}
}

func TestParseImageSpec(t *testing.T) {
	got, err := ParseImageSpec("self, 099720109477", "", "ami-1 ami-2", "name=cell-*  architecture=x86_64,arm64")
	want := ImageSpec{
		Owners: []string{"self", "099720109477"}, ImageIDs: []string{"ami-1", "ami-2"},
		Filters: []ImageFilter{{"name", []string{"cell-*"}}, {"architecture", []string{"x86_64", "arm64"}}},
	}
	got.ExecutableUsers = nil
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("(-want +got):\n%s (%v)", diff, err)
	}
	for _, wrong := range []string{"name", "name=", "=x", "name=cell other"} {
		if _, err := ParseImageSpec("", "", "", wrong); err == nil || !strings.Contains(err.Error(), "bootImageSpec") {
			t.Errorf("%q: got %v, want an error that names the key", wrong, err)
		}
	}
}
