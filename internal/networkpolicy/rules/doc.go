// Package rules is what Kip tells a cell's agent about its pod's traffic: which
// connections may be opened to the pod, and which the pod may open.
//
// It is what is left of NetworkPolicies when everything that needs Kubernetes to
// be understood has been worked out: a few rules, and sets of addresses that the
// rules name. Kip sends it whole once, and after that what changed of it. Both
// ends import this package; it knows neither Kubernetes nor the kernel.
package rules
