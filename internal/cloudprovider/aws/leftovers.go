package aws

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// unattached is the status of volumes and network interfaces that no instance has.
const unattached = "available"

// Leftovers implements cloudprovider.Sweeper. Volumes and interfaces end with
// their instance, unless somebody changed that or EC2 failed; groups are left
// when Kip is moved to another VPC. Routes carry no tags: what is known of them
// is to which interfaces this process made them lead.
func (p *Provider) Leftovers(ctx context.Context) ([]cloudprovider.Leftover, error) {
	var all []cloudprovider.Leftover
	var errs []error
	for _, list := range []func(context.Context) ([]cloudprovider.Leftover, error){
		p.leftVolumes, p.leftInterfaces, p.leftGroups, p.leftRoutes,
	} {
		some, err := list(ctx)
		all, errs = append(all, some...), append(errs, err)
	}
	return all, errors.Join(errs...)
}

func (p *Provider) leftVolumes(ctx context.Context) (left []cloudprovider.Leftover, _ error) {
	in := &ec2.DescribeVolumesInput{Filters: []types.Filter{p.ownFilter(), filter("status", unattached)}}
	for pages := ec2.NewDescribeVolumesPaginator(p.ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("ec2:DescribeVolumes", err)
		}
		for _, v := range page.Volumes {
			left = append(left, cloudprovider.Leftover{Kind: cloudprovider.LeftVolume, ID: aws.ToString(v.VolumeId), CellName: tagValue(v.Tags, tagCell)})
		}
	}
	return left, nil
}

func (p *Provider) leftInterfaces(ctx context.Context) (left []cloudprovider.Leftover, _ error) {
	in := &ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{p.ownFilter(), filter("status", unattached)}}
	for pages := ec2.NewDescribeNetworkInterfacesPaginator(p.ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("ec2:DescribeNetworkInterfaces", err)
		}
		for _, n := range page.NetworkInterfaces {
			id := aws.ToString(n.NetworkInterfaceId)
			left = append(left, cloudprovider.Leftover{Kind: cloudprovider.LeftInterface, ID: id, NetworkInterface: id, CellName: tagValue(n.TagSet, tagCell)})
		}
	}
	return left, nil
}

// leftGroups are in VPCs where no cells are launched any more. EC2 keeps those
// that something still uses.
func (p *Provider) leftGroups(ctx context.Context) (left []cloudprovider.Leftover, _ error) {
	net, err := p.nets.get(ctx)
	if err != nil {
		return nil, err
	}
	in := &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{p.ownFilter(), filter("group-name", p.grp.name())}}
	for pages := ec2.NewDescribeSecurityGroupsPaginator(p.ec2, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("ec2:DescribeSecurityGroups", err)
		}
		for _, g := range page.SecurityGroups {
			if aws.ToString(g.VpcId) != net.vpcID {
				left = append(left, cloudprovider.Leftover{Kind: cloudprovider.LeftGroup, ID: aws.ToString(g.GroupId)})
			}
		}
	}
	return left, nil
}

// leftRoutes lead to interfaces that are gone.
func (p *Provider) leftRoutes(ctx context.Context) (left []cloudprovider.Leftover, _ error) {
	if p.routed.none() {
		return nil, nil
	}
	tables, err := p.rts.get(ctx, p.cfg.Clock.Now())
	if err != nil {
		return nil, err
	}
	for _, table := range tables.all {
		for _, r := range table.Routes {
			nic := aws.ToString(r.NetworkInterfaceId)
			if r.State == types.RouteStateBlackhole && p.routed.has(nic) {
				left = append(left, cloudprovider.Leftover{Kind: cloudprovider.LeftRoute, NetworkInterface: nic,
					ID: fmt.Sprintf("%s in %s to %s", aws.ToString(r.DestinationCidrBlock), aws.ToString(table.RouteTableId), nic)})
			}
		}
	}
	return left, nil
}

// RemoveLeftover implements cloudprovider.Sweeper. EC2 itself refuses to delete
// what is attached to something again.
func (p *Provider) RemoveLeftover(ctx context.Context, l cloudprovider.Leftover) error {
	if l.NetworkInterface != "" {
		// Without the interface nobody could tell whose they are.
		if err := p.RemoveRoutes(ctx, cloudprovider.RouteTarget{NetworkInterface: l.NetworkInterface}); err != nil {
			return err
		}
	}
	var action string
	var err error
	switch l.Kind {
	case cloudprovider.LeftVolume:
		action = "ec2:DeleteVolume"
		_, err = p.ec2.DeleteVolume(optional(ctx), &ec2.DeleteVolumeInput{VolumeId: aws.String(l.ID)})
	case cloudprovider.LeftInterface:
		action = "ec2:DeleteNetworkInterface"
		_, err = p.ec2.DeleteNetworkInterface(optional(ctx), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: aws.String(l.ID)})
	case cloudprovider.LeftGroup:
		action = "ec2:DeleteSecurityGroup"
		_, err = p.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: aws.String(l.ID)})
	}
	for _, gone := range []string{"InvalidVolume.NotFound", "InvalidNetworkInterfaceID.NotFound", "InvalidGroup.NotFound"} {
		if hasCode(err, gone) {
			return nil
		}
	}
	return wrap(action, err)
}

// routed remembers the interfaces to which this process had routes lead.
type routed struct {
	mu   sync.Mutex
	nics map[string]bool
}

func (r *routed) add(nic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nics[nic] = true
}

func (r *routed) remove(nic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nics, nic)
}

func (r *routed) has(nic string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nics[nic]
}

func (r *routed) none() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.nics) == 0
}
