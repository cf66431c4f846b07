// Package conformance runs Kubernetes' own tests of a node against the virtual
// node: the program e2e.test, as Kubernetes builds it, on a local cluster whose
// only node is Kip's, without its taint.
//
// Every spec runs in a process of its own, so that a run can be ended at any
// time and goes on with the specs that have no result yet. The images that the
// specs name are made here, of what Kubernetes' module and Debian have. What
// cannot run, and why, is in exclusions.yaml.
package conformance
