// Package machine is the seam between ec2local's EC2 API and whatever turns an instance into something that runs.
//
// The API side owns identity, addresses, states and time; it decides when a machine starts and when it ends, and it
// writes its intent down before it calls here. The other side, a [Hypervisor], owns processes, disks and cables. It
// knows nothing of EC2, so that sandboxes made of Linux namespaces, emulated computers and the in-memory fake of
// package machinetest are exchangeable.
package machine

import (
	"context"
	"net/netip"
)

// Hypervisor runs machines. It is used by one ec2local at a time, from many goroutines at once; calls for the same
// machine never overlap, except Console, which may come at any time.
//
// Every method may be repeated with the same arguments after it failed, was interrupted or succeeded: what is already
// there is kept, what is missing is made. Errors wrap the machine's ID. When ctx ends a method returns soon; what it
// leaves half done is picked up by the next call for that machine.
type Hypervisor interface {
	// Start powers the machine on and returns once its init runs; it does not wait for init to achieve anything.
	// A machine that was powered off keeps its disk and starts from it. A machine that runs already is left alone.
	// After an error the machine may exist in part; PowerOff and Remove clean it up.
	Start(ctx context.Context, m Spec) error

	// PowerOff ends the machine: when it returns nil, none of its processes is left. Unless force is set, init is
	// first asked to end (a signal, like the press of a power button) and killed only after the hypervisor's own
	// grace period. The disk is kept. An unknown or ended machine is no error.
	PowerOff(ctx context.Context, id string, force bool) error

	// Remove frees all that is left of a machine that is powered off: disk, cgroups, network, console. An unknown
	// machine is no error.
	Remove(ctx context.Context, id string) error

	// Adopt is called once per machine after ec2local itself was restarted, before any other call for it. It takes
	// a running machine up again, so that its end is reported by Exited, and answers whether it runs. A machine that
	// is dead or unknown is (false, nil); it is not reported by Exited.
	Adopt(ctx context.Context, m Spec) (running bool, err error)

	// Exited delivers the ID of each machine whose init ended by itself or was killed by someone other than
	// PowerOff. The channel is never closed. Its one reader never blocks for long.
	Exited() <-chan string

	// Console returns up to the last MaxConsole bytes that init wrote to its standard output and error. An unknown
	// machine is an error that wraps fs.ErrNotExist.
	Console(id string) ([]byte, error)
}

// MaxConsole is the most that is kept of a machine's console, in bytes: what EC2 keeps.
const MaxConsole = 64 << 10

// Spec describes a machine. It never changes during the machine's life.
type Spec struct {
	// ID is unique among all machines of a hypervisor, now and later. It is a valid file name (an instance ID).
	ID string
	// Hostname is the machine's host name, without a domain.
	Hostname string
	// Image is the directory of the image that the root file system is made from.
	Image string
	// VCPUs bounds the CPU time the machine gets, in CPUs. It may be a fraction.
	VCPUs float64
	// MemoryMiB bounds the machine's memory.
	MemoryMiB int64
	// GPUs is how many there are of NVIDIA's.
	GPUs int
	// RootVolumeGiB is the size of the machine's root volume.
	RootVolumeGiB int64
	// NIC is the machine's only network interface, eth0 inside.
	NIC NIC
}

// NIC is a machine's network interface.
type NIC struct {
	// MAC is the hardware address, in the form aa:bb:cc:dd:ee:ff.
	MAC string
	// Device is the name of the interface's end outside the machine: at most 15 bytes, derived from the machine's
	// ID, and unique.
	Device string
	// PrimaryIP is the address eth0 has when init starts, with the prefix of its subnet.
	PrimaryIP netip.Prefix
	// SecondaryIPs are addresses the machine may use as well. The hypervisor lets their traffic through but does not
	// configure them inside: the machine learns them from its metadata service.
	SecondaryIPs []netip.Addr
	// Gateway is the router of the subnet, the machine's default route.
	Gateway netip.Addr
}
