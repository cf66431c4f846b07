// Package networkpolicy works out, for each cell, what NetworkPolicies let its
// one pod do, and sees to it that the cell's agent enforces that.
//
//	policies ┐                       ┌ rules of a cell ┐
//	namespaces ├─ watched ─► index ──┤                 ├─ Controller ─► agent
//	pods     ┘                       └ sets of peers   ┘   PUT, whole or what changed
//
// The index has two layers, so that the most frequent change of all, a pod's
// address, costs little. What a policy's selector selects is a set, kept once
// for all cells that need it: a change of a pod is compared with each set, and
// whoever uses a set that it changed is told the difference. The rules, which
// name sets, are worked out anew only when the policies of the pod's namespace
// change, or the pod itself.
//
// Nothing here is written down anywhere. A Kip that starts tells every cell
// everything once; until then cells enforce what they were told last.
//
// What the semantics of NetworkPolicy leave open is decided in docs/adr.
package networkpolicy
