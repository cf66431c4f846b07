// Package podmetrics is what the virtual node's kubelet API answers about what
// pods use: /stats/summary, /metrics/resource, /metrics/cadvisor and
// /metrics/probes.
//
// Every cell's agent reports every 15 seconds, over the connection that its
// cell has anyway, what the kubelet there says of its pod (package report).
// Kip keeps the last report of each cell, in memory, and answers from that: no
// scrape ever goes to a cell. A report is good for a minute, and only while
// its cell has the pod. Nothing is lost with Kip's memory but the seconds until
// the next reports.
//
// A cell is believed what it says of its own pod and containers, and nothing
// else. What is about the instance (machine_*, the root cgroup) is left out: a
// pod's monitoring sees one big node, and its own containers on it. The node's
// own figures are the sums over its pods, to be compared with the capacity that
// the node says it has.
package podmetrics
