// Package process starts the agent's child processes, keeps them running and
// waits for them, and for every orphan as well when the agent is PID 1.
//
// There is one place that calls wait: the Reaper. It collects whatever child
// ended, hands the exit status to whoever started it through the Reaper, and
// drops the rest, which are orphans that the kernel gave to PID 1 (containerd's
// shims, and what containers leave behind). Nothing else in the agent may start
// processes with os/exec, whose own wait would race with this one.
//
// A Service is a process that must run: it is started again whenever it ends.
// Only the process itself is ever signalled, never its process group:
// containers must outlive the kubelet and containerd.
package process
