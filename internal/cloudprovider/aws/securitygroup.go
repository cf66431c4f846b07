package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// securityGroup is Kip's own group, one per controller and VPC. Cells may be
// reached by everything in the VPC, as pods may in a cluster, and by the
// CIDRs that the configuration adds. It is made when first needed and its
// rules are kept right; it lives as long as the installation.
type securityGroup struct {
	p     *Provider
	cache *cached[string]
}

// get returns the group's ID.
func (g *securityGroup) get(ctx context.Context) (string, error) {
	id, stale, err := g.cache.get(ctx, g.p.cfg.Clock, securityGroupTTL, g.ensure)
	if stale != nil {
		g.p.log.Warn("checking the security group failed, using it as it is", "group", id, "err", stale)
	}
	return id, err
}

func (g *securityGroup) expire() { g.cache.expire() }

func (g *securityGroup) ensure(ctx context.Context) (string, error) {
	net, err := g.p.nets.get(ctx)
	if err != nil {
		return "", err
	}
	group, err := g.find(ctx, net.vpcID)
	if err != nil {
		return "", err
	}
	if group == nil {
		if group, err = g.create(ctx, net.vpcID); err != nil {
			return "", err
		}
	}
	id := aws.ToString(group.GroupId)
	return id, g.reconcileRules(ctx, id, group.IpPermissions, slices.Concat(net.cidrs, g.p.cfg.ExtraCIDRs))
}

func (g *securityGroup) find(ctx context.Context, vpcID string) (*types.SecurityGroup, error) {
	out, err := g.p.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{filter("vpc-id", vpcID), filter("group-name", g.name()), g.p.ownFilter()},
	})
	if err != nil {
		return nil, wrap("ec2:DescribeSecurityGroups", err)
	}
	if len(out.SecurityGroups) == 0 {
		return nil, nil
	}
	return &out.SecurityGroups[0], nil
}

// name is unique in the VPC, so that two creations cannot both succeed.
func (g *securityGroup) name() string { return "kip cells " + g.p.cfg.ControllerID }

func (g *securityGroup) create(ctx context.Context, vpcID string) (*types.SecurityGroup, error) {
	out, err := g.p.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		GroupName:   aws.String(g.name()),
		Description: aws.String("Cells of Kip " + g.p.cfg.ControllerID + ", managed by Kip"),
		VpcId:       aws.String(vpcID),
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroup,
			Tags:         append(g.p.ownTags(), tag(tagName, g.name())),
		}},
	})
	if hasCode(err, "InvalidGroup.Duplicate") {
		// Made by an earlier call whose answer was lost, and not to be seen yet.
		group, findErr := g.find(ctx, vpcID)
		if findErr != nil || group != nil {
			return group, findErr
		}
		return nil, invalid("ec2:CreateSecurityGroup", fmt.Sprintf("security group %q exists without the tag %s=%s: delete or tag it",
			g.name(), tagController, g.p.cfg.ControllerID))
	}
	if err != nil {
		return nil, wrap("ec2:CreateSecurityGroup", err)
	}
	g.p.log.Info("security group created", "group", aws.ToString(out.GroupId), "vpc", vpcID)
	return &types.SecurityGroup{GroupId: out.GroupId}, nil
}

// reconcileRules makes ingress exactly: everything from the given CIDRs.
// What is missing is added before what is wrong is removed, so that a rule
// that is wanted never lacks in between.
func (g *securityGroup) reconcileRules(ctx context.Context, id string, have []types.IpPermission, cidrs []string) error {
	present := map[string]bool{}
	var extra []types.IpPermission
	for _, perm := range have {
		if aws.ToString(perm.IpProtocol) == allProtocols {
			// EC2 shows all rules of a protocol as one permission.
			perm.IpRanges = slices.DeleteFunc(slices.Clone(perm.IpRanges), func(r types.IpRange) bool {
				cidr := aws.ToString(r.CidrIp)
				present[cidr] = true
				return slices.Contains(cidrs, cidr)
			})
		}
		if len(perm.IpRanges)+len(perm.Ipv6Ranges)+len(perm.PrefixListIds)+len(perm.UserIdGroupPairs) > 0 {
			extra = append(extra, perm)
		}
	}
	var missing []types.IpRange
	for _, c := range cidrs {
		if !present[c] {
			present[c] = true
			missing = append(missing, types.IpRange{CidrIp: aws.String(c), Description: aws.String("kip")})
		}
	}
	if len(missing) > 0 {
		if _, err := g.p.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
			GroupId:       aws.String(id),
			IpPermissions: []types.IpPermission{{IpProtocol: aws.String(allProtocols), IpRanges: missing}},
		}); err != nil && !hasCode(err, "InvalidPermission.Duplicate") {
			return wrap("ec2:AuthorizeSecurityGroupIngress", err)
		}
	}
	if len(extra) > 0 {
		if _, err := g.p.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{
			GroupId: aws.String(id), IpPermissions: extra,
		}); err != nil && !hasCode(err, "InvalidPermission.NotFound") {
			return wrap("ec2:RevokeSecurityGroupIngress", err)
		}
		g.p.log.Warn("rules that the configuration does not name were removed from Kip's security group", "group", id)
	}
	return nil
}

// allProtocols is EC2's word for every protocol and port.
const allProtocols = "-1"

func hasCode(err error, code string) bool {
	answer, ok := errors.AsType[smithy.APIError](err)
	return ok && answer.ErrorCode() == code
}
