package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	apitypes "k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const actionRun = "ec2:RunInstances"

// maxUserData is EC2's limit, before base64.
const maxUserData = 16 << 10

// maxSecurityGroups is EC2's limit for an interface, unless it was raised.
const maxSecurityGroups = 5

// Create implements cloudprovider.Provider with one RunInstances.
func (p *Provider) Create(ctx context.Context, req cloudprovider.LaunchRequest) (*cloudprovider.Instance, error) {
	in, net, err := p.launchInput(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := p.Turn(ctx, req.CellUID); err != nil {
		p.nets.release(net)
		return nil, err
	}
	p.calls.launch.use(req.CellUID)
	out, err := p.ec2.RunInstances(ctx, in, launchRetryer())
	if err != nil {
		err = p.calls.launch.comeAgain(req.CellUID, wrap(actionRun, err))
		if cloudprovider.KindOf(err).Definite() {
			p.nets.release(net)
		}
		p.learn(req, net, err)
		if strings.HasPrefix(codeOf(err), "InvalidAMIID") {
			return nil, p.withNewerImage(ctx, req, aws.ToString(in.ImageId), err)
		}
		if cloudprovider.KindOf(err) == cloudprovider.TokenConflict {
			return p.resolveConflict(ctx, req, err)
		}
		return nil, err
	}
	if len(out.Instances) != 1 {
		return nil, &cloudprovider.Error{Kind: cloudprovider.Transient, Action: actionRun,
			Message: fmt.Sprintf("the answer holds %d instances instead of one", len(out.Instances))}
	}
	got := instance(&out.Instances[0])
	p.own.add(got.ID)
	// The answer to a repeated request need not carry what was asked for.
	got.CellName, got.CellUID, got.ClientToken = req.CellName, req.CellUID, req.ClientToken
	return got, nil
}

// Turn implements cloudprovider.Pacer.
func (p *Provider) Turn(ctx context.Context, cell apitypes.UID) error {
	return p.calls.launch.turn(ctx, cell)
}

// resolveConflict finds the instance of a token that was used before with
// other parameters: since the first request the image, the subnets' room or
// the configuration changed.
func (p *Provider) resolveConflict(ctx context.Context, req cloudprovider.LaunchRequest, cause error) (*cloudprovider.Instance, error) {
	earlier, err := p.findByToken(ctx, req.CellUID, req.ClientToken)
	if err != nil {
		return nil, err
	}
	if earlier == nil {
		return nil, cause
	}
	return earlier, nil
}

// learn drops what a refusal shows to be out of date.
func (p *Provider) learn(req cloudprovider.LaunchRequest, net subnet, err error) {
	if cloudprovider.KindOf(err) == cloudprovider.SubnetFull {
		p.nets.full(net.id)
		return
	}
	code := codeOf(err)
	switch {
	case strings.HasPrefix(code, "InvalidAMIID"):
		p.imgs.expire()
	case strings.HasPrefix(code, "InvalidGroup"), strings.HasPrefix(code, "InvalidSecurityGroup"):
		p.grp.expire()
	case strings.HasPrefix(code, "InvalidSubnet"):
		p.nets.cache.expire()
		p.grp.expire()
	}
}

// withNewerImage adds to the error of a launch whose image is gone that it may
// be repeated at once, if another image took its place.
func (p *Provider) withNewerImage(ctx context.Context, req cloudprovider.LaunchRequest, gone string, err error) error {
	e, ok := errors.AsType[*cloudprovider.Error](err)
	if now, readErr := p.imgs.get(ctx, req.Launch.Architecture); ok && readErr == nil && now.id != gone {
		e.RetryAfter = time.Millisecond
	}
	return err
}

// launchInput says all that the instance is made of, and the chosen subnet.
func (p *Provider) launchInput(ctx context.Context, req cloudprovider.LaunchRequest) (*ec2.RunInstancesInput, subnet, error) {
	if len(req.UserData) > maxUserData {
		return nil, subnet{}, invalid(actionRun, fmt.Sprintf("user data has %d bytes, at most %d are allowed", len(req.UserData), maxUserData))
	}
	img, err := p.imgs.get(ctx, req.Launch.Architecture)
	if err != nil {
		return nil, subnet{}, err
	}
	own, err := p.grp.get(ctx)
	if err != nil {
		return nil, subnet{}, err
	}
	groups := slices.Concat([]string{own}, p.cfg.ExtraSecurityGroups, req.Instance.SecurityGroups)
	slices.Sort(groups)
	if groups = slices.Compact(groups); len(groups) > maxSecurityGroups {
		return nil, subnet{}, invalid(actionRun, fmt.Sprintf("the cell would have %d security groups, at most %d are allowed: Kip's own, "+
			"those of cells.extraSecurityGroups and those of the pod's annotation are together %s",
			len(groups), maxSecurityGroups, strings.Join(groups, ", ")))
	}
	net, err := p.nets.choose(ctx, req.Launch.Zone)
	if err != nil {
		return nil, subnet{}, err
	}

	in := &ec2.RunInstancesInput{
		ClientToken:                       aws.String(req.ClientToken),
		MinCount:                          aws.Int32(1),
		MaxCount:                          aws.Int32(1),
		InstanceType:                      types.InstanceType(req.Launch.InstanceType),
		ImageId:                           aws.String(img.id),
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
		UserData:                          aws.String(base64.StdEncoding.EncodeToString(req.UserData)),
		BlockDeviceMappings:               []types.BlockDeviceMapping{p.rootVolume(img, req.VolumeGiB)},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex:                    aws.Int32(0),
			SubnetId:                       aws.String(net.id),
			Groups:                         groups,
			SecondaryPrivateIpAddressCount: aws.Int32(addressesPerCell - 1),
			AssociatePublicIpAddress:       aws.Bool(!p.privateOnly(req.Instance)),
			DeleteOnTermination:            aws.Bool(true),
		}},
		MetadataOptions: &types.InstanceMetadataOptionsRequest{
			HttpEndpoint: types.InstanceMetadataEndpointStateEnabled,
			HttpTokens:   types.HttpTokensStateRequired,
			// One hop ends on the cell itself. A pod is one further away, and
			// needs the metadata service only for the credentials of its own
			// instance profile.
			HttpPutResponseHopLimit: aws.Int32(1),
		},
		CreditSpecification: p.credits(req),
	}
	tags := p.instanceTags(req)
	for _, kind := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface} {
		in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: kind, Tags: tags})
	}
	if req.Launch.CapacityType == v1beta1.Spot {
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{
			MarketType: types.MarketTypeSpot,
			SpotOptions: &types.SpotMarketOptions{
				SpotInstanceType:             types.SpotInstanceTypeOneTime,
				InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorTerminate,
			},
		}
	}
	if req.Instance.InstanceProfile != "" {
		in.MetadataOptions.HttpPutResponseHopLimit = aws.Int32(2)
	}
	if profile := p.profile(req.Instance); strings.HasPrefix(profile, "arn:") {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: aws.String(profile)}
	} else if profile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String(profile)}
	}
	return in, net, nil
}

// rootVolume is encrypted with the account's default key and ends with the
// instance.
func (p *Provider) rootVolume(img image, gib int32) types.BlockDeviceMapping {
	if gib == 0 {
		gib = p.cfg.DefaultVolumeGiB
	}
	if gib == 0 {
		gib = instancetype.DefaultVolumeGiB
	}
	return types.BlockDeviceMapping{
		DeviceName: aws.String(img.rootDevice),
		Ebs: &types.EbsBlockDevice{
			VolumeSize:          aws.Int32(max(gib, img.minGiB)),
			VolumeType:          types.VolumeTypeGp3,
			Encrypted:           aws.Bool(true),
			DeleteOnTermination: aws.Bool(true),
		},
	}
}

func (p *Provider) privateOnly(s v1beta1.InstanceSettings) bool {
	if s.PrivateIPOnly != nil {
		return *s.PrivateIPOnly
	}
	return p.cfg.PrivateIPOnly
}

func (p *Provider) profile(s v1beta1.InstanceSettings) string {
	if s.InstanceProfile != "" {
		return s.InstanceProfile
	}
	return p.cfg.InstanceProfile
}

// credits lets a burstable instance run above its baseline, at a price, when
// the pod's request is above it; otherwise it stays within what it earned, so
// that a pod cannot cost more than was said. Nil for other types, which refuse
// the parameter.
func (p *Provider) credits(req cloudprovider.LaunchRequest) *types.CreditSpecificationRequest {
	t, ok := p.cfg.Catalogue.Type(req.Launch.InstanceType)
	if !ok || !t.Burstable {
		return nil
	}
	mode := "standard"
	if float64(req.CPU.MilliValue()+instancetype.CellCPUMillis)/1000 > t.BaselineVCPUs {
		mode = "unlimited"
	}
	return &types.CreditSpecificationRequest{CpuCredits: aws.String(mode)}
}
