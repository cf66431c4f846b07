// Package localcluster runs a whole Kubernetes cluster whose pods run on cells,
// on one machine: etcd, the control plane, a registry, CoreDNS, metrics-server, ec2local and
// Kip, each a process of its own.
//
// A cluster is a directory. What it holds (ports, keys, process IDs) is enough
// to take it up again from any state: Up starts what is missing and replaces
// what changed, and may be interrupted anywhere and called again. Down ends
// what Up started, and nothing else, by process ID and start time.
package localcluster
