package machine

import (
	"context"
	"net/netip"
)

// Network enforces what the API side says of traffic between machines, and to and from everything else.
type Network interface {
	// Enforce lets exactly what the policy says pass from now on, in place of what was said before. Connections that
	// were let pass once go on, as in EC2. A port's traffic is refused until a policy names it; a machine may be
	// started before or after.
	//
	// It may be called from many goroutines and repeated at any time; what does not change costs nothing. After an
	// error the old policy or the new one is in force, and the next call makes it good.
	Enforce(ctx context.Context, p Policy) error
}

// Policy is all that a Network has to know. It is not modified by either side.
type Policy struct {
	Ports  []Port
	Groups []Group
	Tables []RouteTable
	// MainTable is the number of the table for what does not come from a machine.
	MainTable int
}

// Port is where a machine is plugged in.
type Port struct {
	NIC NIC
	// Groups are the IDs of the groups the port is in: something passes if one of them lets it.
	Groups []string
	// AnyAddress lets the machine send from, and get what is for, addresses that are not its own.
	AnyAddress bool
	// Table is the number of the port's route table.
	Table int
}

// Group is a security group.
type Group struct {
	ID              string
	Ingress, Egress []Rule
}

// Rule lets some traffic pass.
type Rule struct {
	// Protocol is an IP protocol's number, or Any.
	Protocol int
	// From and To are a range of ports for TCP and UDP, and type and code for ICMP, where Any stands for all.
	From, To int
	// Peer is who is on the other side, unless Group is set: then it is all addresses of that group's ports.
	Peer  netip.Prefix
	Group string
}

// Any, in a Rule, is any protocol, ICMP type or ICMP code.
const Any = -1

// RouteTable leads destinations to machines. The addresses of the network itself need no route, but one for a whole
// subnet is preferred to them.
type RouteTable struct {
	// Number tells tables apart; it is at least 0 and small.
	Number int
	// Routes are the devices (NIC.Device) that destinations are sent to. What is not attached now gets nothing.
	Routes map[netip.Prefix]string
}
