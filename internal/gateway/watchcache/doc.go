// Package watchcache serves lists and watches of Kubernetes objects from
// memory to very many clients at once.
//
// It is the part of the gateway that speaks the list and watch protocol: what
// an API server does for its clients, this package does for the kubelets and
// kube-proxies of thousands of cells, from two kinds of source:
//
//   - a Collection holds all objects of one resource that every cell may see
//     (Services, EndpointSlices, ...). One reflector fills it; a bounded ring
//     of changes lets a watch resume where it broke off.
//   - a Single holds one object that one cell may see (its Pod, its Node).
//
// Objects are kept as JSON, encoded once when they change. A watch writes the
// same bytes as every other watch. Only the resource version is spliced in
// when an object is written, because a deletion carries a later version than
// the object it removes.
//
// # Versions
//
// Resource versions are Kip's own: they start at the time this process
// started (nanoseconds since 1970) and count up by one a change, for all
// sources together. So they only ever grow, also over a restart or failover
// of Kip, which a kubelet relies on when it compares two versions of its Node.
// A version from before the restart lies below everything this process knows
// and is answered with 410 Gone: the client lists again, as it would after any
// long pause.
//
// # Coalescing
//
// A slow watch is never buffered for. It is told what happened since the
// version it reached when it is ready to be told: a Collection replays its
// ring, or ends the watch with 410 if the ring has moved on; a Single sends
// only the newest state, which is all that a level-based client needs.
package watchcache
