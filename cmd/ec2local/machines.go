package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/elotl/kip/v2/internal/ec2local/container"
	"github.com/elotl/kip/v2/internal/ec2local/hollow"
	"github.com/elotl/kip/v2/internal/ec2local/hollowcell"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vm"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// machines is what runs instances, and where they find the metadata service.
type machines struct {
	machine.Hypervisor
	network        machine.Network // nil if there is nothing to enforce anything on
	listenMetadata func() (net.Listener, error)
	close          func() error // leaves machines running
}

// openMachines makes containers and virtual machines possible, or what only looks like machines.
func openMachines(ctx context.Context, o serveOptions, c cluster) (*machines, error) {
	if o.hollow {
		return &machines{
			Hypervisor: hollow.Hypervisor{},
			// Nobody asks for metadata; the listener keeps the server as it is elsewhere.
			listenMetadata: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
			close:          func() error { return nil },
		}, nil
	}
	if o.hollowCells {
		return openHollowCells(c)
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
	hypervisors, err := openHypervisors(o, c, network, nameserver)
	if err != nil {
		return nil, errors.Join(err, network.Close())
	}
	mixed := hypervisors.mix()
	return &machines{Hypervisor: mixed, network: network, listenMetadata: network.ListenIMDS, close: func() error {
		mixed.Close()
		hypervisors.close()
		return network.Close()
	}}, nil
}

// openHollowCells makes cells without containers possible. Nothing is enforced on their network.
func openHollowCells(c cluster) (*machines, error) {
	if err := hollowcell.AddRoute(c.VPC); err != nil {
		return nil, err
	}
	metadata, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for metadata requests: %w", err)
	}
	cells := hollowcell.New(hollowcell.Config{Metadata: "http://" + metadata.Addr().String(), Logger: slog.Default()})
	return &machines{
		Hypervisor:     cells,
		listenMetadata: func() (net.Listener, error) { return metadata, nil },
		close:          func() error { cells.Close(); return nil },
	}, nil
}

// hypervisors are all that run machines in earnest.
type hypervisors struct {
	containers *container.Hypervisor
	computers  *vm.Hypervisor
}

func openHypervisors(o serveOptions, c cluster, network *vpcnet.Network, nameserver netip.Addr) (hypervisors, error) {
	containers, err := container.New(container.Config{
		StateDir: o.state, Cluster: c.Name, Network: network, Nameserver: nameserver, Shares: o.shares, PowerOffGrace: o.grace, Logger: slog.Default(),
	})
	if err != nil {
		return hypervisors{}, err
	}
	computers, err := vm.New(vm.Config{
		Dir: filepath.Join(o.state, computersDir), Network: network, Nameserver: nameserver, PowerOffGrace: o.grace, Logger: slog.Default(),
	})
	if err != nil {
		containers.Close()
		return hypervisors{}, err
	}
	return hypervisors{containers, computers}, nil
}

// mix makes machines what their images are for.
func (h hypervisors) mix() *machine.Mixed {
	return machine.Mix(
		machine.Kind{Of: vm.IsImage, Hypervisor: h.computers},
		machine.Kind{Of: func(string) bool { return true }, Hypervisor: h.containers},
	)
}

func (h hypervisors) close() {
	h.computers.Close()
	h.containers.Close()
}

// machines are the IDs of all of which there is anything left.
func (h hypervisors) machines() ([]string, error) {
	containers, err := h.containers.Machines()
	if err != nil {
		return nil, err
	}
	computers, err := h.computers.Machines()
	return append(containers, computers...), err
}
