// Package vpcnet is the network of a local VPC: what the machines of one ec2local are plugged into.
//
// Everything lives in one network namespace of its own, so that the host's addresses, routes and firewall are never
// touched but for one link and one route:
//
//	       host                 │   namespace kip-<cluster>-vpc                            │   a machine
//	                            │                                                          │
//	kip-<cluster> 10.98.255.1 ──┼── host0 10.98.255.2   br0  10.98.0.1, 10.98.16.1, …      │
//	route 10.98.0.0/16          │        (forwarding)   │    169.254.169.254 (IMDS)        │
//	                            │                       ├── <NIC's device> ────────────────┼── eth0
//	                            │                       └── …                              │
//
// The bridge's first address of each subnet is that subnet's router. A packet from one subnet to another, or to the
// host, passes through the namespace's routing; one within a subnet crosses the bridge. There is no default route:
// machines reach each other and the host's end of the link, nothing else.
//
// Router and bridge are told where each NIC's addresses and MAC are, and [Network.Attach] returns when the link carries:
// nobody waits for an answer to ARP, least of all one who tries to reach a machine before it is there. Only machines of
// one subnet ask each other.
//
// What EC2 calls the source/destination check is a set of rules in nftables' bridge family. A packet is taken from a
// machine only if it carries the MAC of the machine's NIC and one of its addresses, in IP as in ARP, and is handed to a
// machine only if it is for one of the addresses of that machine. Other protocols, IPv6 among them, are dropped. So the
// source address of a connection to the metadata service says for certain which machine speaks.
//
// Security groups and route tables are not enforced yet. They fit into the same namespace: stateful rules can see the
// bridged packets when net.bridge.bridge-nf-call-iptables is set there, or, with isolated bridge ports and
// proxy_arp_pvlan on br0, when each packet is routed. (Many kernels have no connection tracking in the bridge family.)
//
// All of it outlives the process that made it. [Open] takes up what it finds and completes what is missing, and
// [Destroy] removes all of it, also what an interrupted Open left.
package vpcnet
