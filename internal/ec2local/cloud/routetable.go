package cloud

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// RouteTable says where packets that leave a subnet go, besides to the VPC's own addresses, which each table has a
// route for that nobody can take away. Its tags are the world's.
type RouteTable struct {
	ID string
	// Seq tells tables apart in the kernel, and orders them by age. It is never used again.
	Seq int
	// ClientToken makes the creation repeatable; it may be empty.
	ClientToken string
	// MainID is the ID of the association that makes the table the one of all subnets that have none of their own;
	// empty for all tables but one.
	MainID string
	// Subnets are the subnets that use the table explicitly, by the ID of the association.
	Subnets map[string]string
	// Routes are those that were made, by destination, besides the local one.
	Routes map[netip.Prefix]Target
}

// Target is where a route leads: exactly one field is set.
type Target struct {
	// GatewayID is that of the internet gateway.
	GatewayID string
	// InterfaceID is the interface of an instance, which may be gone.
	InterfaceID string
}

// maxRoutes is EC2's limit on the routes of a table that are not propagated.
const maxRoutes = 50

// Main tells whether the table is the VPC's main one.
func (t *RouteTable) Main() bool { return t.MainID != "" }

// mainTable is the VPC's main table.
func (w *World) mainTable() RouteTable {
	for _, t := range w.RouteTables {
		if t.Main() {
			return t
		}
	}
	return RouteTable{}
}

// association finds an association by its ID. subnet is empty for the one that makes the main table.
func (w *World) association(id string) (t RouteTable, subnet string, err error) {
	for _, t := range w.RouteTables {
		if subnet, ok := t.Subnets[id]; ok {
			return t, subnet, nil
		}
		if t.MainID == id && id != "" {
			return t, "", nil
		}
	}
	return RouteTable{}, "", NotFound("rtbassoc", id)
}

// setTables publishes changed tables and removes others. c.mu is held.
func (c *Cloud) setTables(changed []RouteTable, removed ...string) error {
	return c.changeWorld(func(w *World) {
		w.RouteTables = maps.Clone(w.RouteTables)
		for _, t := range changed {
			w.RouteTables[t.ID] = t
		}
		for _, id := range removed {
			delete(w.RouteTables, id)
			w.dropTags(id)
		}
	})
}

// CreateRouteTable makes a table that only has the local route. The same client token gives the same table.
func (c *Cloud) CreateRouteTable(token string, tags Tags, dryRun bool) (RouteTable, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.world.RouteTables {
		if token != "" && t.ClientToken == token {
			return t, nil
		}
	}
	if dryRun {
		return RouteTable{}, ErrDryRun()
	}
	id, err := c.newID("rtb")
	if err != nil {
		return RouteTable{}, err
	}
	t := RouteTable{ID: id, Seq: c.world.NextTable, ClientToken: token}
	return t, c.changeWorld(func(w *World) {
		w.NextTable++
		w.RouteTables = maps.Clone(w.RouteTables)
		w.RouteTables[id] = t
		w.Tags = maps.Clone(w.Tags)
		w.Tags[id] = tags
	})
}

// DeleteRouteTable removes a table that no subnet uses.
func (c *Cloud) DeleteRouteTable(id string, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.world.RouteTables[id]
	switch {
	case !ok:
		return NotFound("rtb", id)
	case t.Main() || len(t.Subnets) > 0:
		return query.Errorf("DependencyViolation", "The routeTable '%s' has dependencies and cannot be deleted.", id)
	case dryRun:
		return ErrDryRun()
	}
	return c.setTables(nil, id)
}

// Associate makes a subnet use a table and returns the ID of the association. A subnet that uses another one explicitly
// is refused.
func (c *Cloud) Associate(table, subnet string, dryRun bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.world.RouteTables[table]
	if !ok {
		return "", NotFound("rtb", table)
	}
	if c.subnet(subnet).ID == "" {
		return "", NotFound("subnet", subnet)
	}
	for _, other := range c.world.RouteTables {
		for id, s := range other.Subnets {
			switch {
			case s == subnet && other.ID == table:
				return id, nil // as it is
			case s == subnet:
				return "", query.Errorf("Resource.AlreadyAssociated", "the specified association for route table %s "+
					"conflicts with an existing association", table)
			}
		}
	}
	if dryRun {
		return "", ErrDryRun()
	}
	id, err := c.newID("rtbassoc")
	if err != nil {
		return "", err
	}
	t.Subnets = with(t.Subnets, id, subnet)
	return id, c.setTables([]RouteTable{t})
}

// Disassociate makes a subnet use the main table again.
func (c *Cloud) Disassociate(association string, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, subnet, err := c.world.association(association)
	switch {
	case err != nil:
		return err
	case subnet == "":
		return query.Errorf("InvalidParameterValue", "cannot disassociate the main route table association %s", association)
	case dryRun:
		return ErrDryRun()
	}
	t.Subnets = without(t.Subnets, association)
	return c.setTables([]RouteTable{t})
}

// ReplaceAssociation makes the subnet of an association use another table, or makes another table the main one. It
// returns the ID of the association that takes the place.
func (c *Cloud) ReplaceAssociation(association, table string, dryRun bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, subnet, err := c.world.association(association)
	if err != nil {
		return "", err
	}
	to, ok := c.world.RouteTables[table]
	switch {
	case !ok:
		return "", NotFound("rtb", table)
	case from.ID == to.ID:
		return "", query.Errorf("InvalidParameterValue", "the association %s is with route table %s already", association, table)
	case dryRun:
		return "", ErrDryRun()
	}
	id, err := c.newID("rtbassoc")
	if err != nil {
		return "", err
	}
	if subnet == "" {
		from.MainID, to.MainID = "", id
	} else {
		from.Subnets, to.Subnets = without(from.Subnets, association), with(to.Subnets, id, subnet)
	}
	return id, c.setTables([]RouteTable{from, to})
}

// CreateRoute adds a route to a table, and answers with success when the very same is there.
func (c *Cloud) CreateRoute(table string, destination netip.Prefix, target Target, dryRun bool) error {
	return c.changeRoutes(table, dryRun, func(t RouteTable) (map[netip.Prefix]Target, error) {
		have, exists := t.Routes[destination]
		switch err := c.checkRoute(destination, target); {
		case err != nil:
			return nil, err
		case exists && have == target:
			return t.Routes, nil
		case exists || destination == c.world.VPC.CIDR:
			return nil, query.Errorf("RouteAlreadyExists", "The route identified by %s already exists.", destination)
		case len(t.Routes) >= maxRoutes:
			return nil, query.Errorf("RouteLimitExceeded", "The maximum number of routes has been reached: %d", maxRoutes)
		}
		return with(t.Routes, destination, target), nil
	})
}

// ReplaceRoute leads a route that exists elsewhere.
func (c *Cloud) ReplaceRoute(table string, destination netip.Prefix, target Target, dryRun bool) error {
	return c.changeRoutes(table, dryRun, func(t RouteTable) (map[netip.Prefix]Target, error) {
		if _, exists := t.Routes[destination]; !exists {
			return nil, query.Errorf("InvalidParameterValue", "There is no route defined for '%s' in the route table. "+
				"Use CreateRoute instead.", destination)
		}
		return with(t.Routes, destination, target), c.checkRoute(destination, target)
	})
}

// DeleteRoute removes a route.
func (c *Cloud) DeleteRoute(table string, destination netip.Prefix, dryRun bool) error {
	return c.changeRoutes(table, dryRun, func(t RouteTable) (map[netip.Prefix]Target, error) {
		if destination == c.world.VPC.CIDR {
			return nil, query.Errorf("InvalidParameterValue", "cannot remove local route %s in route table %s", destination, table)
		}
		if _, exists := t.Routes[destination]; !exists {
			return nil, query.Errorf("InvalidRoute.NotFound", "no route with destination-cidr-block %s in route table %s",
				destination, table)
		}
		return without(t.Routes, destination), nil
	})
}

// changeRoutes gives a table other routes.
func (c *Cloud) changeRoutes(table string, dryRun bool, change func(RouteTable) (map[netip.Prefix]Target, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.world.RouteTables[table]
	if !ok {
		return NotFound("rtb", table)
	}
	routes, err := change(t)
	if err == nil && dryRun {
		err = ErrDryRun()
	}
	if err != nil {
		return err
	}
	t.Routes = routes
	return c.setTables([]RouteTable{t})
}

// checkRoute refuses routes that cannot be. c.mu is held.
func (c *Cloud) checkRoute(destination netip.Prefix, target Target) error {
	if target.InterfaceID != "" {
		if c.ownerOf(target.InterfaceID) == nil {
			return NotFound("eni", target.InterfaceID)
		}
	} else if target.GatewayID != c.world.InternetGatewayID {
		return query.Errorf("InvalidGatewayID.NotFound", "The gateway ID '%s' does not exist", target.GatewayID)
	}
	vpc := c.world.VPC.CIDR
	if !vpc.Contains(destination.Addr()) || destination.Bits() <= vpc.Bits() {
		return nil
	}
	// Within the VPC only whole subnets can be led elsewhere, and only to an appliance.
	if target.InterfaceID == "" {
		return query.Errorf("InvalidParameterValue", "The destination CIDR block %s is equal to or more specific than one "+
			"of this VPC's CIDR blocks. This route can target only an interface or an instance.", destination)
	}
	if !slices.ContainsFunc(c.world.Subnets, func(s Subnet) bool { return s.CIDR == destination }) {
		return query.Errorf("InvalidParameterValue", "The destination CIDR block %s is more specific than one of this "+
			"VPC's CIDR blocks and is not the CIDR block of one of its subnets.", destination)
	}
	return nil
}

// ownerOf is the instance with an interface; nil if there is none, or no longer. c.mu is held.
func (c *Cloud) ownerOf(interfaceID string) *Instance {
	for _, i := range c.instances {
		if i.HasMachine() && i.Interface.ID == interfaceID {
			return i
		}
	}
	return nil
}

// routeTarget is the interface of an instance that a route shall lead to.
func (c *Cloud) routeTarget(instance string) (Target, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.known(instance)
	switch {
	case !ok || !i.HasMachine():
		return Target{}, NotFound("i", instance)
	case i.State == ShuttingDown:
		return Target{}, incorrectState(i)
	}
	return Target{InterfaceID: i.Interface.ID}, nil
}

// RouteTarget reads what a request names as a route's target, of which exactly one may be set.
func (c *Cloud) RouteTarget(gateway, instance, networkInterface string) (Target, error) {
	named := slices.DeleteFunc([]string{gateway, instance, networkInterface}, func(s string) bool { return s == "" })
	switch {
	case len(named) == 0:
		return Target{}, query.Errorf("MissingParameter", "The request must contain exactly one of gatewayId, instanceId, networkInterfaceId")
	case len(named) > 1:
		return Target{}, query.Errorf("InvalidParameterCombination", "The request must contain exactly one of gatewayId, "+
			"instanceId, networkInterfaceId, not %s", strings.Join(named, ", "))
	case instance != "":
		return c.routeTarget(instance)
	}
	return Target{GatewayID: gateway, InterfaceID: networkInterface}, nil
}

// with returns a copy of a map with another entry.
func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	out := maps.Clone(m)
	if out == nil {
		out = map[K]V{}
	}
	out[k] = v
	return out
}

// without returns a copy of a map without an entry.
func without[K comparable, V any](m map[K]V, k K) map[K]V {
	out := maps.Clone(m)
	delete(out, k)
	return out
}
