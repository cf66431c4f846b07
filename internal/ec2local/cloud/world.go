package cloud

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// World is what the account holds besides instances. It is made once and then kept.
type World struct {
	Created time.Time
	VPC     VPC
	Subnets []Subnet
	// InternetGatewayID is the only gateway. Nothing is behind it.
	InternetGatewayID string
	// RouteTables by ID. One of them is the main one.
	RouteTables map[string]RouteTable
	// NextTable is the number that the next route table gets.
	NextTable int
	// SecurityGroups by ID.
	SecurityGroups map[string]SecurityGroup
	// Tags of everything in the world, by ID.
	Tags map[string]Tags
	// MetadataKey signs the tokens of the metadata service, so that they outlive ec2local's process.
	MetadataKey []byte
}

// VPC is the only VPC.
type VPC struct {
	ID, AssociationID, DHCPOptionsID string
	CIDR                             netip.Prefix
}

// Subnet is one of the subnets.
type Subnet struct {
	ID, Zone, ZoneID string
	CIDR             netip.Prefix
	// Default subnets, one in each zone, are those of launches that name none.
	Default bool
}

// newWorld makes the world of a new account.
func (c *Cloud) newWorld() (World, error) {
	var failed error
	id := func(prefix string) string {
		s, err := c.newID(prefix)
		if err != nil {
			failed = err
		}
		return s
	}
	w := World{
		Created:           c.cfg.Clock.Now().UTC(),
		VPC:               VPC{ID: id("vpc"), AssociationID: id("vpc-cidr-assoc"), DHCPOptionsID: id("dopt"), CIDR: c.cfg.VPC},
		InternetGatewayID: id("igw"), NextTable: 1,
		SecurityGroups: map[string]SecurityGroup{},
		Tags:           map[string]Tags{},
		MetadataKey:    make([]byte, 32),
	}
	for i, zone := range c.Zones() {
		w.Subnets = append(w.Subnets, Subnet{
			ID: id("subnet"), Zone: zone.Name, ZoneID: zone.ID, CIDR: sixteenth(c.cfg.VPC, i), Default: true,
		})
	}
	internet := map[netip.Prefix]Target{netip.PrefixFrom(netip.IPv4Unspecified(), 0): {GatewayID: w.InternetGatewayID}}
	main := RouteTable{ID: id("rtb"), MainID: id("rtbassoc"), Routes: internet}
	w.RouteTables = map[string]RouteTable{main.ID: main}
	group := SecurityGroup{
		ID: id("sg"), Name: defaultGroup, Description: "default VPC security group",
		Egress: []Rule{everywhere(id("sgr"))},
	}
	// Members of the default group may talk to each other.
	group.Ingress = []Rule{{ID: id("sgr"), Protocol: "-1", Source: Source{GroupID: group.ID}}}
	w.SecurityGroups[group.ID] = group
	if _, err := io.ReadFull(c.cfg.Random, w.MetadataKey); err != nil {
		failed = fmt.Errorf("making the metadata service's key: %w", err)
	}
	return w, failed
}

// Zone is an availability zone.
type Zone struct{ Name, ID string }

// Zones are the region's availability zones.
func (c *Cloud) Zones() []Zone {
	var out []Zone
	for i, name := range c.cfg.Zones {
		out = append(out, Zone{Name: name, ID: zoneID(c.cfg.Region, i)})
	}
	return out
}

// zoneID is a zone's ID as EC2 forms it: us-west-2 has usw2-az1 and so on.
func zoneID(region string, i int) string {
	parts := strings.Split(region, "-")
	short := parts[0]
	for _, p := range parts[1:] {
		short += p[:min(1, len(p))]
	}
	return fmt.Sprintf("%s-az%d", short, i+1)
}

// sixteenth is the i-th of the 16 equal parts of an IPv4 range.
func sixteenth(p netip.Prefix, i int) netip.Prefix {
	bits := p.Bits() + 4
	return netip.PrefixFrom(addrAt(p, i<<(32-bits)), bits)
}

// addrAt is the n-th address of an IPv4 range, the network's own being number 0.
func addrAt(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// exists tells whether the world holds something with this ID.
func (w *World) exists(id string) bool {
	if _, ok := w.SecurityGroups[id]; ok {
		return true
	}
	if _, ok := w.RouteTables[id]; ok {
		return true
	}
	return id == w.VPC.ID || id == w.InternetGatewayID ||
		slices.ContainsFunc(w.Subnets, func(s Subnet) bool { return s.ID == id })
}

// World returns the account's world. It is not to be modified.
func (c *Cloud) World() World {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world
}

// changeWorld publishes a changed world. change gets a copy whose maps and slices are still the old ones' and must be
// replaced, not modified. c.mu is held.
func (c *Cloud) changeWorld(change func(*World)) error {
	next := c.world
	change(&next)
	if err := c.store.writeWorld(next); err != nil {
		return err
	}
	c.world = next
	c.networkChanged()
	return nil
}

// dropTags forgets the tags of a resource that is gone.
func (w *World) dropTags(id string) {
	w.Tags = maps.Clone(w.Tags)
	delete(w.Tags, id)
}
