// Package limits keeps what Kip launches below what its operator allows: a
// number of instances, dollars per hour, launches per minute, for all pods
// together and for those of a namespace.
//
//	limits.go   what is allowed, and how a refusal reads
//	ledger.go   what is committed, and who may commit more
//	waiting.go  who waits, and who can go on when something ended
//
// What counts are Cells, and not instances: from the moment that a launch is
// about to be written down until the Cell is gone, which is after its instance
// is. So an instance that nobody has heard of yet counts, and so does one that is
// still shutting down; nothing that happens between Kip and the cloud makes more
// of them than there are Cells.
//
// The ledger is memory of what Cells say. Before the first launch it is filled
// from the API server itself, since a cache may lack what a Kip before this one
// wrote last. From then on a claim is entered before its Cell is written, and
// only what a Cell says takes it out again.
package limits
