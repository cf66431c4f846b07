package imds

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrNoPodAddress says that the instance has only one private address. A cell
// needs a second one, which is its pod's.
var ErrNoPodAddress = errors.New("the instance has no second private address for its pod")

// Instance is what a cell needs to know about the machine it is.
type Instance struct {
	// ID is the instance's ID, for example i-0123456789abcdef0.
	ID string
	// MAC is the hardware address of the primary network interface.
	MAC string
	// Primary is the address the cell is managed at.
	Primary netip.Addr
	// Pod is the interface's second address, which belongs to the pod.
	Pod netip.Addr
	// Subnet is the subnet of both.
	Subnet netip.Prefix
}

// AwaitInstance reads the instance's own description, patiently: it tries
// until everything is there or ctx ends. An instance without a second address
// ends in an error that wraps ErrNoPodAddress.
func (c *Client) AwaitInstance(ctx context.Context) (Instance, error) {
	var i Instance
	err := retry(ctx, func() (err error) {
		i, err = c.instance(ctx)
		return err
	})
	if err != nil {
		return Instance{}, fmt.Errorf("learning what instance this is: %w", err)
	}
	return i, nil
}

func (c *Client) instance(ctx context.Context) (Instance, error) {
	id, err := c.Get(ctx, "meta-data/instance-id")
	if err != nil {
		return Instance{}, err
	}
	mac, err := c.Get(ctx, "meta-data/mac")
	if err != nil {
		return Instance{}, err
	}
	i := Instance{ID: strings.TrimSpace(string(id)), MAC: strings.TrimSpace(string(mac))}

	nic := "meta-data/network/interfaces/macs/" + i.MAC + "/"
	subnet, err := c.Get(ctx, nic+"subnet-ipv4-cidr-block")
	if err != nil {
		return Instance{}, err
	}
	if i.Subnet, err = netip.ParsePrefix(strings.TrimSpace(string(subnet))); err != nil {
		return Instance{}, fmt.Errorf("the metadata service's subnet: %w", err)
	}
	addresses, err := c.Get(ctx, nic+"local-ipv4s")
	if err != nil {
		return Instance{}, err
	}
	i.Primary, i.Pod, err = parseAddresses(string(addresses))
	return i, err
}

// parseAddresses takes the interface's address list apart: one address per
// line, the primary one first.
func parseAddresses(list string) (primary, pod netip.Addr, err error) {
	fields := strings.Fields(list)
	if len(fields) < 2 {
		return netip.Addr{}, netip.Addr{}, ErrNoPodAddress
	}
	if primary, err = netip.ParseAddr(fields[0]); err != nil {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("the metadata service's primary address: %w", err)
	}
	if pod, err = netip.ParseAddr(fields[1]); err != nil {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("the metadata service's second address: %w", err)
	}
	return primary, pod, nil
}
