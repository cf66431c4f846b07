// Package instancetype finds the cheapest instance that holds a pod.
//
// It is made of pure functions over plain data: no clients, no clocks, no
// goroutines. A pod becomes v1beta1.Requirements (RequirementsForPod); the
// requirements, a region of the catalogue and what is known to be unavailable
// just now become an ordered list of offerings (Region.Offerings). An offering
// is an instance type in a zone, bought as on-demand or as spot capacity.
//
//	pod ──► Requirements ─┐
//	catalogue ─► Region ──┼──► Result: offerings, cheapest first
//	Unavailable, zones ───┘            what was ruled out, and by what
//
// The price of an offering is what the user will really be billed by the hour:
// the instance, surplus CPU credits of a burstable type that is kept above its
// baseline, the root volume, a public IPv4 address. An instance is measured by
// what it leaves for the pod, not by its brochure: see PodMemoryMiB.
//
// The catalogue is data that ships with Kip (folder data, written by
// hack/catalogue), so choosing needs no cloud permission; a file may replace it.
package instancetype
