package aws

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// input is a launch of a small cell in zone a, changed by a test.
func input(t *testing.T, config func(*Config), change func(*cloudprovider.LaunchRequest)) *ec2.RunInstancesInput {
	t.Helper()
	p, _, _ := newStub(t, config)
	req := request("token")
	req.Launch.Zone, req.UserData = "a", []byte("hello")
	if change != nil {
		change(&req)
	}
	in, _, err := p.launchInput(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestLaunchInput(t *testing.T) {
	tags := []types.Tag{
		tag("KipControllerID", "c/n/node"), tag("KipNametag", "prod"), tag("KipNamespace", "default"), tag("KipPodName", "web"),
		tag("KipCell", "cell"), tag("KipCellUID", "uid"), tag("Name", "prod/default/web"),
	}
	want := &ec2.RunInstancesInput{
		ClientToken: aws.String("token"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		InstanceType: "t3.micro", ImageId: aws.String("ami-1"),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
		UserData:                          aws.String(base64.StdEncoding.EncodeToString([]byte("hello"))),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{
			VolumeSize: aws.Int32(instancetype.DefaultVolumeGiB), VolumeType: types.VolumeTypeGp3, Encrypted: aws.Bool(true), DeleteOnTermination: aws.Bool(true),
		}}},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), SubnetId: aws.String("subnet-a2"), Groups: []string{"sg-own"},
			SecondaryPrivateIpAddressCount: aws.Int32(1), AssociatePublicIpAddress: aws.Bool(true), DeleteOnTermination: aws.Bool(true),
		}},
		MetadataOptions: &types.InstanceMetadataOptionsRequest{
			HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(1),
		},
		CreditSpecification: &types.CreditSpecificationRequest{CpuCredits: aws.String("standard")},
		TagSpecifications: []types.TagSpecification{
			{ResourceType: types.ResourceTypeInstance, Tags: tags},
			{ResourceType: types.ResourceTypeVolume, Tags: tags},
			{ResourceType: types.ResourceTypeNetworkInterface, Tags: tags},
		},
	}
	if diff := cmp.Diff(want, input(t, nil, nil), cmpopts.IgnoreUnexported(
		ec2.RunInstancesInput{}, types.BlockDeviceMapping{}, types.EbsBlockDevice{}, types.InstanceNetworkInterfaceSpecification{},
		types.InstanceMetadataOptionsRequest{}, types.CreditSpecificationRequest{}, types.TagSpecification{}, types.Tag{},
	)); diff != "" {
		t.Errorf("launch (-want +got):\n%s", diff)
	}
}

func TestLaunchInputVariants(t *testing.T) {
	yes := true
	for name, tc := range map[string]struct {
		reason string
		config func(*Config)
		change func(*cloudprovider.LaunchRequest)
		check  func(*ec2.RunInstancesInput) any
		want   any
	}{
		"credits above the baseline": {
			reason: "a request is a promise, also in sustained use",
			change: func(r *cloudprovider.LaunchRequest) { r.CPU = resource.MustParse("1") },
			check:  func(in *ec2.RunInstancesInput) any { return aws.ToString(in.CreditSpecification.CpuCredits) }, want: "unlimited",
		},
		"credits of a type that has none": {
			reason: "EC2 refuses the parameter",
			change: func(r *cloudprovider.LaunchRequest) { r.Launch.InstanceType = "c6i.large" },
			check:  func(in *ec2.RunInstancesInput) any { return in.CreditSpecification == nil }, want: true,
		},
		"spot": {
			reason: "one-time, and terminated when taken back",
			change: func(r *cloudprovider.LaunchRequest) { r.Launch.CapacityType = v1beta1.Spot },
			check: func(in *ec2.RunInstancesInput) any {
				o := in.InstanceMarketOptions
				return string(o.MarketType) + " " + string(o.SpotOptions.SpotInstanceType) + " " + string(o.SpotOptions.InstanceInterruptionBehavior)
			}, want: "spot one-time terminate",
		},
		"private by annotation": {
			reason: "the pod's wish is above the configuration",
			change: func(r *cloudprovider.LaunchRequest) { r.Instance.PrivateIPOnly = &yes },
			check:  func(in *ec2.RunInstancesInput) any { return *in.NetworkInterfaces[0].AssociatePublicIpAddress }, want: false,
		},
		"private by configuration": {
			reason: "cells.privateIPOnly",
			config: func(c *Config) { c.PrivateIPOnly = true },
			check:  func(in *ec2.RunInstancesInput) any { return *in.NetworkInterfaces[0].AssociatePublicIpAddress }, want: false,
		},
		"security groups": {
			reason: "own, configured, asked for; each once",
			config: func(c *Config) { c.ExtraSecurityGroups = []string{"sg-x"} },
			change: func(r *cloudprovider.LaunchRequest) { r.Instance.SecurityGroups = []string{"sg-y", "sg-x"} },
			check:  func(in *ec2.RunInstancesInput) any { return in.NetworkInterfaces[0].Groups }, want: []string{"sg-own", "sg-x", "sg-y"},
		},
		"profile by name": {
			reason: "the pod needs its credentials, one hop further",
			change: func(r *cloudprovider.LaunchRequest) { r.Instance.InstanceProfile = "role" },
			check: func(in *ec2.RunInstancesInput) any {
				return []any{aws.ToString(in.IamInstanceProfile.Name), *in.MetadataOptions.HttpPutResponseHopLimit}
			}, want: []any{"role", int32(2)},
		},
		"default profile": {
			reason: "of the cell, not of its pod",
			config: func(c *Config) { c.InstanceProfile = "arn:aws:iam::123456789012:instance-profile/cell" },
			check: func(in *ec2.RunInstancesInput) any {
				return []any{aws.ToString(in.IamInstanceProfile.Arn), *in.MetadataOptions.HttpPutResponseHopLimit}
			}, want: []any{"arn:aws:iam::123456789012:instance-profile/cell", int32(1)},
		},
		"volume of the pod": {
			reason: "pod.elotl.co/volume-size",
			change: func(r *cloudprovider.LaunchRequest) { r.VolumeGiB = 100 },
			check:  func(in *ec2.RunInstancesInput) any { return *in.BlockDeviceMappings[0].Ebs.VolumeSize }, want: int32(100),
		},
		"volume of the image": {
			reason: "EC2 refuses a smaller one",
			change: func(r *cloudprovider.LaunchRequest) { r.VolumeGiB = 4 },
			check:  func(in *ec2.RunInstancesInput) any { return *in.BlockDeviceMappings[0].Ebs.VolumeSize }, want: int32(8),
		},
		"standby cell": {
			reason: "no pod, so no pod's tags",
			change: func(r *cloudprovider.LaunchRequest) { r.Pod = nil },
			check: func(in *ec2.RunInstancesInput) any {
				return tagValue(in.TagSpecifications[0].Tags, "Name") + " " + tagValue(in.TagSpecifications[0].Tags, "KipPodName")
			}, want: "prod/cell ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.check(input(t, tc.config, tc.change))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestRefusalsTeach: what a refusal shows to be out of date is read again.
func TestRefusalsTeach(t *testing.T) {
	for code, read := range map[string]string{
		"InvalidAMIID.NotFound": "images", "InvalidGroup.NotFound": "groups", "InvalidSubnetID.NotFound": "subnets",
		"InsufficientFreeAddressesInSubnet": "subnets",
	} {
		t.Run(code, func(t *testing.T) {
			p, s, _ := newStub(t, nil)
			s.launch = func(*ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
				return nil, &smithy.GenericAPIError{Code: code}
			}
			req := request("token")
			req.Launch.Zone = "a"
			for range 2 {
				if _, err := p.Create(t.Context(), req); !cloudprovider.KindOf(err).Definite() {
					t.Fatalf("got %v", err)
				}
			}
			want := 2
			if read == "images" {
				want = 3 // at once, after each of the two refusals
			}
			if s.reads[read] != want {
				t.Errorf("%s read %d times, want %d", read, s.reads[read], want)
			}
		})
	}
}

func TestTooManySecurityGroups(t *testing.T) {
	p, s, _ := newStub(t, func(c *Config) { c.ExtraSecurityGroups = []string{"sg-1", "sg-2", "sg-3"} })
	s.launch = func(*ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
		t.Error("a launch that cannot succeed was asked for")
		return nil, errors.New("unexpected")
	}
	req := request("token")
	req.Launch.Zone, req.Instance.SecurityGroups = "a", []string{"sg-4", "sg-3", "sg-5"}
	_, err := p.Create(t.Context(), req)
	if cloudprovider.KindOf(err) != cloudprovider.InvalidConfiguration {
		t.Fatalf("got %v, want InvalidConfiguration", err)
	}
	for _, part := range []string{"6 security groups", "at most 5", "extraSecurityGroups", "sg-own"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	if left := p.nets.left(subnet{id: "subnet-a2", free: 20}); left != 20 {
		t.Errorf("%d addresses left, want all 20: nothing was launched", left)
	}
	req.Instance.SecurityGroups = []string{"sg-4", "sg-3", "sg-3"} // five with Kip's own: each counts once
	if _, _, err := p.launchInput(t.Context(), req); err != nil {
		t.Errorf("five groups: %v", err)
	}
}

func TestUnseenConflict(t *testing.T) {
	p, s, _ := newStub(t, nil)
	s.launch = func(*ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
		return nil, &smithy.GenericAPIError{Code: "IdempotentParameterMismatch"}
	}
	req := request("token")
	req.Launch.Zone = "a"
	if _, err := p.Create(t.Context(), req); cloudprovider.KindOf(err) != cloudprovider.TokenConflict {
		t.Errorf("got %v, want TokenConflict: an instance may exist and not be seen yet", err)
	}
}

func TestRefusedLaunchesUseNoAddresses(t *testing.T) {
	p, s, _ := newStub(t, nil)
	s.launch = func(*ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
		return nil, &smithy.GenericAPIError{Code: "InsufficientInstanceCapacity"}
	}
	req := request("token")
	req.Launch.Zone = "a"
	for range 100 {
		if _, err := p.Create(t.Context(), req); cloudprovider.KindOf(err) != cloudprovider.InsufficientCapacity {
			t.Fatalf("got %v", err)
		}
	}
	// A launch without an answer may have taken its addresses.
	s.launch = func(*ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) { return nil, errors.New("EOF") }
	for range 15 {
		if _, err := p.Create(t.Context(), req); cloudprovider.KindOf(err) != cloudprovider.Transient {
			t.Fatalf("got %v", err)
		}
	}
	if _, err := p.Create(t.Context(), req); cloudprovider.KindOf(err) != cloudprovider.SubnetFull {
		t.Errorf("got %v, want SubnetFull after all 30 addresses were counted", err)
	}
}

// TestImageIsGone: an image that was replaced is no reason to wait, one that
// only went is.
func TestImageIsGone(t *testing.T) {
	for name, replaced := range map[string]bool{"replaced": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			p, s, _ := newStub(t, nil)
			s.launch = func(in *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error) {
				if replaced {
					s.images[0].ImageId = aws.String("ami-2")
				}
				return nil, &smithy.GenericAPIError{Code: "InvalidAMIID.NotFound", Message: "The image id '" + aws.ToString(in.ImageId) + "' does not exist"}
			}
			req := request("token")
			req.Launch.Zone = "a"
			_, err := p.Create(t.Context(), req)
			if cloudprovider.KindOf(err) != cloudprovider.InvalidConfiguration || (cloudprovider.RetryAfter(err) > 0) != replaced {
				t.Errorf("got %v, to be repeated after %s", err, cloudprovider.RetryAfter(err))
			}
			if s.reads["images"] != 2 {
				t.Errorf("images were read %d times", s.reads["images"])
			}
		})
	}
}
