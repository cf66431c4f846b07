package aws

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// CleanUp removes the controller's security group, in whichever VPC it is, and
// volumes and network interfaces that instances left behind, of which the latter
// hold the group. What has not this controller's tag is not seen. While the controller has
// instances it refuses: whoever runs in them would lose the pod. The error is
// Transient while something of terminated instances still holds the group.
func (p *Provider) CleanUp(ctx context.Context) error {
	instances, err := p.List(ctx)
	if err != nil {
		return err
	}
	var left, ending []string
	for _, i := range instances {
		switch i.State {
		case cloudprovider.StateTerminated:
		case cloudprovider.StateShuttingDown:
			ending = append(ending, i.ID)
		default:
			left = append(left, i.ID)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%d instances of controller %s exist, and only a running Kip ends them: %s",
			len(left), p.cfg.ControllerID, strings.Join(left, ", "))
	}
	if len(ending) > 0 {
		return &cloudprovider.Error{Kind: cloudprovider.Transient, Action: "ec2:DeleteSecurityGroup",
			Message: "instances are shutting down: " + strings.Join(ending, ", ")}
	}
	if err := p.cleanUpLeftovers(ctx); err != nil {
		return err
	}
	out, err := p.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{filter("group-name", p.grp.name()), p.ownFilter()},
	})
	if err != nil {
		return wrap("ec2:DescribeSecurityGroups", err)
	}
	for _, g := range out.SecurityGroups {
		_, err := p.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId})
		if err != nil && !hasCode(err, "InvalidGroup.NotFound") {
			return wrap("ec2:DeleteSecurityGroup", err)
		}
		p.log.Info("security group removed", "group", aws.ToString(g.GroupId), "vpc", aws.ToString(g.VpcId))
	}
	return nil
}

// cleanUpLeftovers goes on where the rights lack: there hardly ever is one.
func (p *Provider) cleanUpLeftovers(ctx context.Context) error {
	volumes, err := p.leftVolumes(ctx)
	if err != nil {
		return err
	}
	interfaces, err := p.leftInterfaces(ctx)
	if err != nil {
		return err
	}
	for _, l := range append(volumes, interfaces...) {
		err := p.RemoveLeftover(ctx, l)
		if cloudprovider.KindOf(err) == cloudprovider.Denied {
			p.log.Warn("something that an instance left stays", "kind", l.Kind, "id", l.ID, "err", err)
			continue
		}
		if err != nil {
			return err
		}
		p.log.Info("something that an instance left was removed", "kind", l.Kind, "id", l.ID)
	}
	return nil
}
