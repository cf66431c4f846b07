// Package networkpolicy enforces, on the cell, what Kip has worked out of the
// cluster's NetworkPolicies for the pod.
//
// The rules are in the cell's own network namespace, in an nftables table of
// their own, where the pod's packets are forwarded: a pod has none of that, and
// whatever it may do in its own namespace comes after it or before. The uplink
// tells the directions apart. What leaves by any other interface goes to the
// pod, what comes from any other is the pod's, whatever address it claims.
//
//	           ┌─ ingress ─┐
//	uplink ────┤  forward  ├──── veth ── pod        cell's own ── veth ── pod
//	           └─ egress ──┘                         (not forwarded: always allowed)
//
// A cell begins closed, before there can be a pod, and Kip opens it as far as
// policies allow, or altogether. Each update is one transaction of the kernel's.
// The kernel keeps the rules when the agent ends, and the disk keeps them when
// the instance is restarted.
//
// Where the kernel has no nftables, all or nothing is enforced, by a routing
// rule.
package networkpolicy
