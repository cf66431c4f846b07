package aws

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	apitypes "k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Get implements cloudprovider.Provider.
func (p *Provider) Get(ctx context.Context, id string) (*cloudprovider.Instance, error) {
	out, err := p.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		return nil, wrap("ec2:DescribeInstances", err)
	}
	for _, r := range out.Reservations {
		for i := range r.Instances {
			if tagValue(r.Instances[i].Tags, tagController) == p.cfg.ControllerID {
				return instance(&r.Instances[i]), nil
			}
		}
	}
	return nil, &cloudprovider.Error{Kind: cloudprovider.NotFound, Action: "ec2:DescribeInstances",
		Message: "instance " + id + " does not exist or is not this controller's"}
}

// List implements cloudprovider.Provider.
func (p *Provider) List(ctx context.Context) ([]cloudprovider.Instance, error) {
	seen := p.own.listing()
	all, err := p.list(ctx, p.ownFilter())
	if err == nil {
		seen(all)
	}
	return all, err
}

// ListCells implements cloudprovider.CellLister. EC2 takes up to 200 values for
// a filter.
func (p *Provider) ListCells(ctx context.Context, cells []apitypes.UID) ([]cloudprovider.Instance, error) {
	uids := make([]string, len(cells))
	for i, uid := range cells {
		uids[i] = string(uid)
	}
	all, err := p.list(ctx, p.ownFilter(), filter("tag:"+tagCellUID, uids...))
	for i := range all {
		p.own.add(all[i].ID)
	}
	return all, err
}

func (p *Provider) list(ctx context.Context, filters ...types.Filter) ([]cloudprovider.Instance, error) {
	var all []cloudprovider.Instance
	in := &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(1000)}
	for {
		out, err := p.ec2.DescribeInstances(ctx, in)
		if err != nil {
			return nil, wrap("ec2:DescribeInstances", err)
		}
		for _, r := range out.Reservations {
			for i := range r.Instances {
				all = append(all, *instance(&r.Instances[i]))
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return all, nil
		}
		in.NextToken = out.NextToken
	}
}

// findByToken returns the instance that was launched for the cell with this
// token, nil if there is none to be seen.
func (p *Provider) findByToken(ctx context.Context, cell apitypes.UID, token string) (*cloudprovider.Instance, error) {
	all, err := p.list(ctx, p.ownFilter(), filter("tag:"+tagCellUID, string(cell)))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(i cloudprovider.Instance) bool { return i.ClientToken == token })
	if i < 0 {
		return nil, nil
	}
	p.own.add(all[i].ID)
	return &all[i], nil
}

// instance is EC2's instance in the words of the seam.
func instance(in *types.Instance) *cloudprovider.Instance {
	out := &cloudprovider.Instance{
		ID:           aws.ToString(in.InstanceId),
		CellName:     tagValue(in.Tags, tagCell),
		CellUID:      apitypes.UID(tagValue(in.Tags, tagCellUID)),
		ClientToken:  aws.ToString(in.ClientToken),
		InstanceType: string(in.InstanceType),
		CapacityType: v1beta1.OnDemand,
		PrimaryIP:    aws.ToString(in.PrivateIpAddress),
		PublicIP:     aws.ToString(in.PublicIpAddress),
		LaunchTime:   aws.ToTime(in.LaunchTime),
	}
	if in.State != nil {
		out.State = cloudprovider.State(in.State.Name) // EC2's words are the seam's
	}
	if in.StateReason != nil {
		out.StateReason = aws.ToString(in.StateReason.Message)
	}
	if in.Placement != nil {
		out.Zone = aws.ToString(in.Placement.AvailabilityZone)
	}
	if in.InstanceLifecycle == types.InstanceLifecycleTypeSpot {
		out.CapacityType = v1beta1.Spot
	}
	for _, nic := range in.NetworkInterfaces {
		if nic.Attachment == nil || aws.ToInt32(nic.Attachment.DeviceIndex) != 0 {
			continue
		}
		out.NetworkInterface = aws.ToString(nic.NetworkInterfaceId)
		for _, a := range nic.PrivateIpAddresses {
			if !aws.ToBool(a.Primary) {
				out.PodIP = aws.ToString(a.PrivateIpAddress)
				break
			}
		}
	}
	return out
}
