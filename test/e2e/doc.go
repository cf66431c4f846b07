// Package e2e holds the tests of whole clusters: a real control plane, Kip with
// exactly the rights that ship, ec2local, and real cells on this machine.
//
//	KIP_E2E=1 go test ./test/e2e/... -count=1 -timeout 40m
//
// All tests share one cluster, which is made before the first of them and ended
// after the last; each has a namespace of its own. Tests that stop parts of the
// cluster run alone, before those that run side by side. With KIP_E2E_KEEP=1
// the cluster (named e2e, in .cache/e2e) survives and the next run uses it
// again.
//
// A test waits generously for what shall happen and tells how long it took. It
// fails for being slow only where being fast is what it tests.
package e2e
