package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/elotl/kip/v2/internal/ec2local/container"
	"github.com/elotl/kip/v2/internal/ec2local/hollow"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// machines is what runs instances, and where they find the metadata service.
type machines struct {
	machine.Hypervisor
	network        machine.Network // nil if there is nothing to enforce anything on
	listenMetadata func() (net.Listener, error)
	close          func() error // leaves machines running
}

// openMachines makes container cells possible, or what only looks like machines.
func openMachines(ctx context.Context, o serveOptions, c cluster) (*machines, error) {
	if o.hollow {
		return &machines{
			Hypervisor: hollow.Hypervisor{},
			// Nobody asks for metadata; the listener keeps the server as it is elsewhere.
			listenMetadata: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
			close:          func() error { return nil },
		}, nil
	}
	network, err := vpcnet.Open(ctx, c.network())
	if err != nil {
		return nil, err
	}
	nameserver := c.network().HostAddress()
	if o.nameserver != "" {
		if nameserver, err = netip.ParseAddr(o.nameserver); err != nil {
			return nil, errors.Join(fmt.Errorf("--nameserver: %w", err), network.Close())
		}
	}
	containers, err := container.New(container.Config{
		StateDir: o.state, Cluster: c.Name, Network: network, Nameserver: nameserver,
		PowerOffGrace: o.grace, Logger: slog.Default(),
	})
	if err != nil {
		return nil, errors.Join(err, network.Close())
	}
	return &machines{Hypervisor: containers, network: network, listenMetadata: network.ListenIMDS, close: func() error {
		containers.Close()
		return network.Close()
	}}, nil
}
