package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// routing makes routes to cells in the route tables of the subnets for cells,
// so that cells reach the network wherever they are. One look at the VPC's
// route tables does for all cells.
type routing struct {
	p     *Provider
	cache *cached[routeTables]
}

// routeTables are those of the VPC.
type routeTables struct {
	began time.Time // when they were asked for
	all   []types.RouteTable
}

// get returns the route tables as they were at since or later.
func (r *routing) get(ctx context.Context, since time.Time) (routeTables, error) {
	got, stale, err := r.cache.get(ctx, r.p.cfg.Clock, routeTTL, r.read)
	if err == nil && got.began.Before(since) {
		r.cache.expire()
		got, stale, err = r.cache.get(ctx, r.p.cfg.Clock, routeTTL, r.read)
	}
	// Nothing is made or removed because of what once was.
	return got, cmp.Or(err, stale)
}

func (r *routing) read(ctx context.Context) (routeTables, error) {
	net, err := r.p.nets.get(ctx)
	if err != nil {
		return routeTables{}, err
	}
	tables := routeTables{began: r.p.cfg.Clock.Now()}
	in := &ec2.DescribeRouteTablesInput{Filters: []types.Filter{filter("vpc-id", net.vpcID)}}
	for {
		out, err := r.p.ec2.DescribeRouteTables(ctx, in)
		if err != nil {
			return routeTables{}, wrap("ec2:DescribeRouteTables", err)
		}
		tables.all = append(tables.all, out.RouteTables...)
		if aws.ToString(out.NextToken) == "" {
			return tables, nil
		}
		in.NextToken = out.NextToken
	}
}

// of returns the tables that subnets use: the one that a subnet is associated
// with, else the VPC's main table, which names no subnets.
func (t routeTables) of(subnets []subnet) []types.RouteTable {
	var main *types.RouteTable
	explicit := map[string]int{}
	for i := range t.all {
		for _, a := range t.all[i].Associations {
			if aws.ToBool(a.Main) {
				main = &t.all[i]
			} else if a.SubnetId != nil {
				explicit[*a.SubnetId] = i
			}
		}
	}
	var used []types.RouteTable
	add := func(table types.RouteTable) {
		if !slices.ContainsFunc(used, func(u types.RouteTable) bool { return aws.ToString(u.RouteTableId) == aws.ToString(table.RouteTableId) }) {
			used = append(used, table)
		}
	}
	for _, s := range subnets {
		if i, ok := explicit[s.id]; ok {
			add(t.all[i])
		} else if main != nil {
			add(*main)
		}
	}
	return used
}

// hop is one route of one table.
type hop struct{ table, network string }

// EnsureRoutes implements cloudprovider.Router. The instance's check of source
// and destination is turned off before the first route is made, so a route
// that exists shows that it is off.
func (p *Provider) EnsureRoutes(ctx context.Context, to cloudprovider.RouteTarget, networks []string) error {
	net, err := p.nets.get(ctx)
	if err != nil {
		return fmt.Errorf("routing to %s: %w", to.InstanceID, err)
	}
	p.routed.add(to.NetworkInterface)
	tables, err := p.rts.get(ctx, time.Time{})
	if err != nil {
		return fmt.Errorf("routing to %s: %w", to.InstanceID, err)
	}
	var missing []hop
	var errs []error
	for _, network := range networks {
		if own := covering(net.cidrs, network); own != "" {
			errs = append(errs, invalid("ec2:CreateRoute", fmt.Sprintf("%s lies within the VPC's own %s, which is not led elsewhere", network, own)))
			continue
		}
		for _, table := range tables.of(net.subnets) {
			id := aws.ToString(table.RouteTableId)
			switch i := slices.IndexFunc(table.Routes, func(r types.Route) bool { return aws.ToString(r.DestinationCidrBlock) == network }); {
			case i < 0:
				missing = append(missing, hop{id, network})
			case !leadsTo(table.Routes[i], to):
				errs = append(errs, taken(hop{id, network}, table.Routes[i]))
			}
		}
	}
	if len(missing) > 0 {
		errs = append(errs, p.createRoutes(ctx, to, missing))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("routing to %s: %w", to.InstanceID, err)
	}
	return nil
}

func (p *Provider) createRoutes(ctx context.Context, to cloudprovider.RouteTarget, missing []hop) error {
	defer p.rts.cache.expire()
	if _, err := p.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
		InstanceId: aws.String(to.InstanceID), SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
	}); err != nil {
		return wrap("ec2:ModifyInstanceAttribute", err)
	}
	var errs []error
	for _, h := range missing {
		if _, err := p.ec2.CreateRoute(ctx, &ec2.CreateRouteInput{
			RouteTableId: aws.String(h.table), DestinationCidrBlock: aws.String(h.network),
			NetworkInterfaceId: aws.String(to.NetworkInterface),
		}); err != nil {
			errs = append(errs, fmt.Errorf("%s in %s: %w", h.network, h.table, wrap("ec2:CreateRoute", err)))
			continue
		}
		p.log.Info("route made", "instance", to.InstanceID, "network", h.network, "table", h.table)
	}
	return errors.Join(errs...)
}

// RemoveRoutes implements cloudprovider.Router. Tables that cells do not use
// any more are looked at too.
func (p *Provider) RemoveRoutes(ctx context.Context, to cloudprovider.RouteTarget) error {
	tables, err := p.rts.get(ctx, p.cfg.Clock.Now())
	if err != nil {
		return fmt.Errorf("removing routes to %s: %w", to.InstanceID, err)
	}
	var errs []error
	for _, table := range tables.all {
		for _, r := range table.Routes {
			if !leadsTo(r, to) || r.DestinationCidrBlock == nil {
				continue
			}
			h := hop{aws.ToString(table.RouteTableId), *r.DestinationCidrBlock}
			_, err := p.ec2.DeleteRoute(ctx, &ec2.DeleteRouteInput{RouteTableId: aws.String(h.table), DestinationCidrBlock: aws.String(h.network)})
			p.rts.cache.expire()
			if err != nil && !hasCode(err, "InvalidRoute.NotFound") {
				errs = append(errs, fmt.Errorf("removing route %s in %s: %w", h.network, h.table, wrap("ec2:DeleteRoute", err)))
				continue
			}
			p.log.Info("route removed", "instance", to.InstanceID, "network", h.network, "table", h.table)
		}
	}
	if len(errs) == 0 {
		p.routed.remove(to.NetworkInterface)
	}
	return errors.Join(errs...)
}

// leadsTo goes by the interface, which a route keeps when its instance is gone.
func leadsTo(r types.Route, to cloudprovider.RouteTarget) bool {
	return to.NetworkInterface != "" && aws.ToString(r.NetworkInterfaceId) == to.NetworkInterface
}

// taken is the error of a network that leads elsewhere.
func taken(h hop, r types.Route) error {
	where := cmp.Or(aws.ToString(r.NetworkInterfaceId), aws.ToString(r.InstanceId), aws.ToString(r.GatewayId), aws.ToString(r.NatGatewayId),
		aws.ToString(r.TransitGatewayId), aws.ToString(r.VpcPeeringConnectionId), "something else")
	if r.State == types.RouteStateBlackhole {
		where += ", which does not exist any more (blackhole)"
	}
	return &cloudprovider.Error{Kind: cloudprovider.InvalidConfiguration, Action: "ec2:CreateRoute", Err: cloudprovider.ErrRouteTaken,
		Message: fmt.Sprintf("%s in %s leads to %s and is left as it is", h.network, h.table, where)}
}

// covering is the CIDR in which a network lies; "" if there is none.
func covering(cidrs []string, network string) string {
	inner, err := netip.ParsePrefix(network)
	if err != nil {
		return ""
	}
	for _, c := range cidrs {
		if outer, err := netip.ParsePrefix(c); err == nil && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr()) {
			return c
		}
	}
	return ""
}
