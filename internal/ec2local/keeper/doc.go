// Package keeper looks after the processes that machines are on the host: one for each running machine, whatever
// hypervisor started it. It knows them again after a restart of ec2local, learns of their end, and keeps what they
// write to their consoles.
//
// All that is known of a machine is in a directory named after it. A process is written down by process ID, start time
// and boot of the host before it does anything, and held by a pidfd, so that another process with the same ID is never
// taken for it. A process needs nothing of its keeper afterwards.
package keeper
