// Package vpcnet is the network of a local VPC: what the machines of one ec2local are plugged into.
//
// Everything lives in one network namespace of its own, so that the host's addresses, routes and firewall are never
// touched but for one link and one route:
//
//	       host                 │   namespace kip-<cluster>-vpc                            │   a machine
//	                            │                                                          │
//	kip-<cluster> 10.98.255.1 ──┼── host0 10.98.255.2   lo  10.98.0.1, 10.98.16.1, …       │
//	route 10.98.0.0/16          │        (forwarding)       169.254.169.254 (IMDS)         │
//	                            │                       <NIC's device> ────────────────────┼── eth0
//	                            │                       …                                  │
//
// The namespace is the router of all subnets, each of which knows it by its first address. Machines share no wire, not
// even within a subnet: the router answers when one asks for another's hardware address, and every packet is routed.
// So every packet passes the same rules, and connection tracking, which many kernels lack for bridges. There is no
// default route: machines reach each other and the host's end of the link, nothing else.
//
// Each NIC's addresses are led to its device and its MAC is told, and [Network.Attach] returns when the link carries:
// nobody waits for an answer to ARP, least of all one who tries to reach a machine before it is there.
//
// Rules in nftables decide what passes, in this order:
//
//   - What EC2 calls the source/destination check, kept by Attach and Detach (rules.go). A packet is taken from a machine
//     only if it carries the MAC of the machine's NIC and one of its addresses, and is handed to a machine only if it is
//     for one of the addresses of that machine. A policy can switch that off for a machine, but not towards the metadata
//     service: the source address of a connection to it says for certain which machine speaks.
//   - Route tables, from the policy (routes.go): a mark that a packet gets where it comes in chooses one of the kernel's.
//   - Security groups, from the policy (policy.go, ruleset.go): the groups of the sender, then those of the receiver. What
//     belongs to a connection that was let pass goes on. The metadata service and the router itself are beyond groups.
//
// Before the first [Network.Enforce] there are no groups and no tables, and all that is checked passes.
//
// All of it outlives the process that made it. [Open] takes up what it finds and completes what is missing, and
// [Destroy] removes all of it, also what an interrupted Open left. What is enforced stays in force in between.
package vpcnet
