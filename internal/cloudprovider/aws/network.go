package aws

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// addressesPerCell: the instance's own and the pod's.
const addressesPerCell = 2

// network is what is known of the VPC and of the subnets for cells.
type network struct {
	at      time.Time // when it was read
	vpcID   string
	cidrs   []string // of the VPC, sorted
	subnets []subnet // by ID
}

type subnet struct {
	id, zone string
	free     int32 // addresses, when it was read
}

// networks chooses subnets. Which ones there are is read from EC2; how full
// they are is counted down in between.
type networks struct {
	p     *Provider
	cache *cached[*network]

	mu    sync.Mutex
	of    *network             // what used counts against
	used  map[string]int32     // addresses given out since of was read, by subnet
	until map[string]time.Time // subnets that were found full

	rechecked time.Time // because a subnet looked full
}

// get reads anew, besides what networkTTL demands, while a subnet looks full:
// cells that ended meanwhile gave their addresses back.
func (n *networks) get(ctx context.Context) (*network, error) {
	got, err := n.cached(ctx)
	if err == nil && slices.ContainsFunc(got.subnets, func(s subnet) bool { return n.left(s) < addressesPerCell }) && n.recheck(got) {
		n.cache.expire()
		return n.cached(ctx)
	}
	return got, err
}

// recheck says whether it is time, at most once per fullRecheck.
func (n *networks) recheck(net *network) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.p.cfg.Clock.Now()
	if now.Sub(net.at) <= fullRecheck || now.Sub(n.rechecked) <= fullRecheck {
		return false
	}
	n.rechecked = now
	return true
}

func (n *networks) cached(ctx context.Context) (*network, error) {
	got, stale, err := n.cache.get(ctx, n.p.cfg.Clock, networkTTL, n.read)
	if err != nil {
		return nil, err
	}
	if stale != nil {
		n.p.log.Warn("reading subnets failed, using what was read before", "err", stale)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of != got {
		n.of, n.used = got, map[string]int32{}
	}
	return got, nil
}

func (n *networks) read(ctx context.Context) (*network, error) {
	cfg := n.p.cfg
	net := &network{at: cfg.Clock.Now(), vpcID: cfg.VPCID}
	if net.vpcID == "" && len(cfg.SubnetIDs)+len(cfg.SubnetTags) == 0 {
		id, err := n.onlyVPC(ctx)
		if err != nil {
			return nil, err
		}
		net.vpcID = id
	}
	in := &ec2.DescribeSubnetsInput{SubnetIds: cfg.SubnetIDs}
	if len(cfg.SubnetIDs) == 0 && net.vpcID != "" {
		in.Filters = []types.Filter{filter("vpc-id", net.vpcID)}
	}
	for _, key := range slices.Sorted(maps.Keys(cfg.SubnetTags)) {
		in.Filters = append(in.Filters, filter("tag:"+key, cfg.SubnetTags[key]...))
	}
	leftOut := 0
	for {
		out, err := n.p.ec2.DescribeSubnets(ctx, in)
		if err != nil {
			return nil, wrap("ec2:DescribeSubnets", err)
		}
		for _, s := range out.Subnets {
			if aws.ToBool(s.Ipv6Native) {
				continue
			}
			if len(cfg.SubnetIDs) == 0 && n.elsewhere(s) {
				leftOut++
				continue
			}
			net.vpcID = cmp.Or(net.vpcID, aws.ToString(s.VpcId))
			if id := aws.ToString(s.VpcId); id != net.vpcID {
				return nil, invalid("ec2:DescribeSubnets", fmt.Sprintf("subnet %s is in %s, not in %s: cells must all be in one VPC",
					aws.ToString(s.SubnetId), id, net.vpcID))
			}
			net.subnets = append(net.subnets, subnet{
				id: aws.ToString(s.SubnetId), zone: aws.ToString(s.AvailabilityZone), free: aws.ToInt32(s.AvailableIpAddressCount),
			})
		}
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	if len(net.subnets) == 0 {
		return nil, invalid("ec2:DescribeSubnets", noSubnet(cfg, net.vpcID, leftOut))
	}
	slices.SortFunc(net.subnets, func(a, b subnet) int { return strings.Compare(a.id, b.id) })
	return net, n.readCIDRs(ctx, net)
}

// elsewhere says whether the subnet is outside the region's own data centres.
// Local and Wavelength Zones are called after their region and a place
// (us-west-2-lax-1a), the others after the region and a letter (us-west-2a).
func (n *networks) elsewhere(s types.Subnet) bool {
	return strings.HasPrefix(aws.ToString(s.AvailabilityZone), n.p.cfg.Region+"-") || aws.ToString(s.OutpostArn) != ""
}

// noSubnet says what was looked for.
func noSubnet(cfg Config, vpcID string, leftOut int) string {
	s := "there is no subnet"
	if vpcID != "" {
		s += " in " + vpcID
	}
	for i, key := range slices.Sorted(maps.Keys(cfg.SubnetTags)) {
		s += []string{" with ", " and "}[min(i, 1)] + "tag " + key + "=" + strings.Join(cfg.SubnetTags[key], " or ")
	}
	if leftOut > 0 {
		s += fmt.Sprintf(", but for %d in Local Zones or on Outposts, which are used only when named by ID", leftOut)
	}
	return s
}

func (n *networks) readCIDRs(ctx context.Context, net *network) error {
	out, err := n.p.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{net.vpcID}})
	if err != nil {
		return wrap("ec2:DescribeVpcs", err)
	}
	for _, v := range out.Vpcs {
		net.cidrs = append(net.cidrs, aws.ToString(v.CidrBlock))
		for _, a := range v.CidrBlockAssociationSet {
			if a.CidrBlockState == nil || a.CidrBlockState.State == types.VpcCidrBlockStateCodeAssociated {
				net.cidrs = append(net.cidrs, aws.ToString(a.CidrBlock))
			}
		}
	}
	slices.Sort(net.cidrs)
	net.cidrs = slices.Compact(net.cidrs)
	return nil
}

// onlyVPC is the VPC to use where the configuration names neither a VPC nor
// subnets.
func (n *networks) onlyVPC(ctx context.Context) (string, error) {
	out, err := n.p.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
	if err != nil {
		return "", wrap("ec2:DescribeVpcs", err)
	}
	for _, v := range out.Vpcs {
		if len(out.Vpcs) == 1 || aws.ToBool(v.IsDefault) {
			return aws.ToString(v.VpcId), nil
		}
	}
	return "", invalid("ec2:DescribeVpcs", fmt.Sprintf(
		"cloud.aws.vpcID and subnetID are empty, and of %d VPCs none is the default one", len(out.Vpcs)))
}

// Zones implements cloudprovider.ZoneLister.
func (p *Provider) Zones(ctx context.Context) ([]string, error) {
	net, err := p.nets.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding zones: %w", err)
	}
	zones := map[string]bool{}
	for _, s := range net.subnets {
		if p.nets.room(s) > 0 {
			zones[s.zone] = true
		}
	}
	return slices.Sorted(maps.Keys(zones)), nil
}

// choose returns the subnet with most room in a zone ("": in any) and counts
// the cell's addresses as used.
func (n *networks) choose(ctx context.Context, zone string) (subnet, error) {
	net, err := n.get(ctx)
	if err != nil {
		return subnet{}, err
	}
	var best subnet
	var bestRoom int32
	inZone := false
	for _, s := range net.subnets {
		if zone != "" && s.zone != zone {
			continue
		}
		inZone = true
		if r := n.room(s); r > bestRoom {
			best, bestRoom = s, r
		}
	}
	switch {
	case !inZone:
		return subnet{}, invalid("ec2:DescribeSubnets", "no subnet for cells in zone "+zone)
	case bestRoom == 0:
		return subnet{}, &cloudprovider.Error{Kind: cloudprovider.SubnetFull, Action: "ec2:DescribeSubnets",
			Message: "no free addresses in the subnets of zone " + zone}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.used[best.id] += addressesPerCell
	return best, nil
}

// room is how many addresses are left in a subnet, 0 if they are not enough
// for a cell or the cloud said lately that it is full.
func (n *networks) room(s subnet) int32 {
	n.mu.Lock()
	full := n.p.cfg.Clock.Now().Before(n.until[s.id])
	n.mu.Unlock()
	if left := n.left(s); !full && left >= addressesPerCell {
		return left
	}
	return 0
}

// left is how many addresses should be free by Kip's own count.
func (n *networks) left(s subnet) int32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return s.free - n.used[s.id]
}

// release takes back what choose counted: the launch was refused.
func (n *networks) release(s subnet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// After a new read the count began anew, without this launch.
	n.used[s.id] = max(0, n.used[s.id]-addressesPerCell)
}

// full remembers that the cloud found no address in the subnet.
func (n *networks) full(id string) {
	n.mu.Lock()
	n.until[id] = n.p.cfg.Clock.Now().Add(subnetFullFor)
	n.mu.Unlock()
	n.cache.expire()
}
