// Package provider joins three views of a pod: the API server's object, the
// Cell that its instance is made from, and what the kubelet in that cell
// reports.
//
// To the virtual-kubelet library it is a pod provider whose calls only poke;
// to the gateway it is the source of what a cell may see and the sink of what a
// cell reports; and it is the one writer of pod status and of the wish that is
// a Cell. All decisions are made in Reconcile, which looks at the pod and its
// Cells as they are and takes the next step, so that a step lost to a crash is
// taken again:
//
//	no Cell, pod wants to run      make a Cell (launch.go)
//	Cell pending, pod changed      bring the Cell's requirements up to date
//	pod ended                      keep its logs, then delete the Cell (end.go)
//	pod is being deleted           wait for its kubelet, delete the Cell, then the pod
//	Cell lost under a running pod  fail the pod or run it again, as its policy says
//	Cell silent or given up        the pod is not ready (status.go)
//	Cell interrupted               end the pod in order, replace it (interruption.go)
//	pod gone                       delete the Cell
//
// The Cell is deleted only after the API server holds the pod's final status:
// a Kip that dies in between must not find a pod that still looks unfinished
// and has no Cell, and run it a second time.
package provider
