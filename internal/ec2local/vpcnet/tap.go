package vpcnet

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// AttachTap plugs in a machine that brings a network card of its own: what it returns is the other end of the wire, on
// which frames are read and written with a virtio header before each. Whoever holds it emulates the card, whose
// hardware address must be the NIC's. The device goes with the last descriptor. The machine configures itself, with
// DHCP (see [Network.ServeDHCP]).
func (n *Network) AttachTap(ctx context.Context, nic machine.NIC) (tap *os.File, err error) {
	defer func() {
		if err != nil {
			if tap != nil {
				err = errors.Join(err, tap.Close())
			}
			tap, err = nil, fmt.Errorf("attaching %s: %w", nic.Device, err)
		}
	}()
	err = n.plugIn(ctx, nic, func(attrs netlink.LinkAttrs) (netlink.Link, error) {
		if err := inNamespace(n.ns, func() (err error) {
			tap, err = openTap(attrs.Name)
			return err
		}); err != nil {
			return nil, err
		}
		link, err := n.links.LinkByName(attrs.Name)
		if err != nil {
			return nil, err
		}
		return link, n.links.LinkSetHardwareAddr(link, attrs.HardwareAddr)
	})
	if err != nil {
		return tap, err
	}
	return tap, awaitUp(ctx, n.links, nic.Device)
}

// openTap makes the device in the namespace of the calling thread.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
