// Package vm runs machines as virtual computers: a [machine.Hypervisor] that has QEMU for each of them. Their kernels
// and disks are their own; they are what an image for a cloud is tried on before it is there.
//
// A machine has the processor's own speed where KVM works, which is tried once by booting the machine's kernel: a
// /dev/kvm that opens promises nothing. Elsewhere it is emulated, one or two orders of magnitude slower.
//
// # A machine's hardware
//
//   - A q35 board with one disk, one network card, a random number generator, a power button and a serial port, which is
//     the console.
//   - The disk is as large as the instance's root volume. It holds what differs from the image's disk, which is never
//     written to. It is a virtio disk, and the card a virtio card: an instance of EC2 has NVMe and ENA instead.
//   - The card is the end of a wire of package vpcnet, so that machine's packets pass the rules that those of all others
//     pass. The machine asks for its address by DHCP.
//   - Memory and processors are those of the instance type, but never more than the host's, and one processor where it
//     is emulated. What a machine does not touch of its memory costs the host nothing.
//   - [machine.Spec].Image is a directory with the file "disk", raw, and with "kernel", "initrd" and "cmdline" if QEMU is
//     to start the kernel by itself. It saves the firmware, most of a second on a real processor and many on an emulated
//     one. Without them UEFI firmware starts what it finds on the disk, as EC2 does, and the machine is emulated: there is
//     no kernel to try KVM with.
//
// # A machine's process
//
// QEMU begins as a shell that waits for a word of its maker, which writes down who it is in the meantime; a maker that
// dies before that leaves nothing behind. Afterwards QEMU needs nobody. Package keeper finds it again, and it is talked
// to over its QMP socket: the press of the power button is all there is to say. A machine that switches itself off is a
// QEMU that ends. One that restarts is the same QEMU all along.
package vm
