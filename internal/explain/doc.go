// Package explain answers, without a cluster or a cloud account, which
// instance Kip would launch for a pod, why, what it costs, what comes next and
// what was ruled out: the command "kip explain".
//
// It asks the same function that launches cells (package instancetype), so what
// it prints is what happens, but for what only a cluster knows: LimitRanges,
// the overhead of a RuntimeClass, defaults of admission webhooks, capacity.
package explain
