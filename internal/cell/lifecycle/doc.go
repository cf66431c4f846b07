// Package lifecycle gives every Cell its instance, and takes it away.
//
// One reconciler, one file per part of a cell's life:
//
//	launch.go     Pending → Launching → Booting: choose an offering, write the
//	              intent down, ask the cloud, go on to the next offering
//	limit.go      what the operator's limits keep from being launched
//	reaction.go   what each kind of refusal leads to
//	follow.go     Booting → Ready, Bound, Running, Draining: what became of it
//	stop.go       an instance that is kept stopped, and started for its pod
//	route.go      networks that the pod asked to be led to its instance
//	fail.go       the Cell was given up: end the instance, prove it is gone
//	console.go    the last words of an instance that never enrolled
//	terminate.go  the Cell was deleted: end the instance, prove it is gone
//	observe.go    what the cloud says of instances, by one request per tick
//
// What makes it safe to be killed at any point:
//
//   - The intent (status.launch, phase Launching) is written before the cloud
//     is asked, with the resource version as a lock, so that it is never based
//     on a Cell that somebody changed meanwhile. The ClientToken follows from
//     the Cell's UID and the intent's number. A restarted Kip repeats the call
//     and gets the same instance.
//   - An intent is given up for the next one only after an answer that says
//     that nothing was launched. If an earlier call for it may have had no
//     answer (Kip was killed, a connection broke), even such an answer is not
//     believed before the instance was looked for and not found, twice.
//   - The finalizer is dropped only after every instance of the Cell was seen
//     terminated, or looked for in vain, twice, long enough after the launch.
//
// Kept in memory are only shortcuts: what was written last (the cache lags
// behind), since when something is absent, how often something failed. Without
// them everything takes longer and nothing else changes.
package lifecycle
