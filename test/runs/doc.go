// Package runs keeps, outside of the cells, what programs in pods say of their
// own runs. What Kubernetes says of a pod is what Kip told it; that a program
// ran twice, or two at once, only the programs themselves can tell.
//
//	report.go  in the container: a run tells of itself while it lasts
//	log.go     outside: what was told, and what is wrong with it
//
// A run says with each report what time it was. Times of different runs are
// compared, so all of them must be by one clock: this is for container cells, of
// one machine.
package runs
