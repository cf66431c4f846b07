// Package health decides that a cell works no more.
//
//	watch.go    which cells are watched, and since when each is silent
//	judge.go    what that means: a pod that is out of touch, a cell that is
//	            given up, or nothing, because the fault is more likely Kip's
//	verdict.go  a cell is given up: written into it, and nothing else
//	cloud.go    what the cloud says: checks that fail, events that it scheduled
//
// A cell's sign of life is its kubelet's renewal of the node's lease, every 10
// seconds, through the gateway: agent, tunnel and kubelet work then. With it
// comes what the kubelet has against itself. A cell that waits for its pod is
// well while it is connected. Look is
// level-based. It counts from this Kip's first look at a cell and never from a
// time that is written somewhere, so a Kip that was away gives every cell the
// whole time; and it begins to count anew when Kip itself stood still.
//
// A verdict is status.failure of the Cell. It is written before anything is
// done, and never taken back. From it the lifecycle controller terminates the
// instance and proves that it is gone; only then the provider decides what
// becomes of the pod, as with every instance that is lost.
package health
