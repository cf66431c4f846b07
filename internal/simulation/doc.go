// Package simulation runs Kip against a world in which everything goes wrong
// that can, as fast as a processor computes it, and the same way again whenever
// it is told to.
//
// Kip is the real one: provider, lifecycle, garbage collection, health,
// connections and gateway, with controller-runtime's controllers and queues and
// virtual-kubelet's library around them. What they reach is simulated, small and
// strict:
//
//	apiserver_test.go   pods and Cells with versions, preconditions, finalizers
//	cache_test.go       what one Kip has read of them so far
//	cloud_test.go       cloudprovidertest's cloud, behind a network
//	machine_test.go     instances that boot, agents, kubelets and programs
//	users_test.go       people and controllers who make and delete pods
//	faults_test.go      what goes wrong, and when
//	check_test.go       what must hold, always and in the end
//	world_test.go       the one loop that decides what happens next
//
// All of it lives in a bubble of testing/synctest, so time passes only when
// nothing is left to do. Everything that Kip asks of the outside is a step: the
// caller waits until the loop picks it, among all that could happen now, by a
// random number from the seed. Only one step is under way at any time, and Go's
// scheduler has nothing to decide. So a seed is a whole history, which another
// run repeats step by step.
//
// A run first has faults, then none. At the end everything must have come to
// rest in the right place.
package simulation
