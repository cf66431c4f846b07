// Package standby keeps cells that wait for a pod.
//
//	pool.go       how many of each kind there are: launch what is missing, end
//	              what is too many, of an older configuration, or of no use
//	zones.go      in which zone the next one goes
//	candidates.go which of them would do for a pod
//	setup.go      when the pools are looked at
//
// A standby cell is a Cell like any other, of which nobody said yet for which
// pod it is: the lifecycle controller launches and ends it, and Kip connects to
// it and enrols it. Its kubelet has started and has no pod. Of a pool that is kept
// stopped the lifecycle controller stops the instance when it has booted, before it
// is enrolled, and starts it when it has a pod. A pod takes a cell by
// being written into it, which is the provider's business, and from then on it
// is that pod's cell and nothing here concerns it any more; it never comes back.
//
// All is found out anew at every look, from the Cells alone. A look that knows
// too little makes a cell too many, and the next one ends that: only cells
// without a pod, and only by the very version that was looked at, so that none
// is ended that was taken meanwhile.
package standby
