// Package container runs machines as sandboxes made of Linux namespaces: a [machine.Hypervisor] whose machines boot in
// tens of milliseconds and in which a real containerd, runc and kubelet run. It is meant for development and tests.
//
// # How a machine comes to be
//
// [Hypervisor.Start] lays out the machine's disk, makes its cgroups and starts this very program again, as process 1 of
// new PID, mount, UTS, IPC and network namespaces. That process waits on a pipe while its maker puts it into the
// cgroups, writes down who it is (process ID, start time, boot of the host) and plugs the network in. Told to go on,
// it enters a new cgroup namespace, mounts the machine's file systems, pivots into them and becomes /sbin/init of the
// image. A maker that dies before that closes the pipe and the process ends: nothing runs that is not written down.
// [MaybeRunInit] is the entry point of the process; every program that uses this package calls it first.
//
// The processes need nothing of their maker afterwards. One who comes later finds them by what was written down
// ([Hypervisor.Adopt]) and learns of their end from a pidfd. With process 1 the kernel kills every process of its PID
// namespace, and the mounts go with the last of them, so [Hypervisor.PowerOff] only has to wait for that.
//
// # What a machine sees
//
//   - The root is a plain directory, so that overlayfs works on it: the content of the image's rootfs directory, and
//     standard directories and files in /etc where the image has none. The image's /opt is read-only and shared.
//     If the image has no /usr, the host's is there, read-only, with /etc/alternatives, and an image's /sbin (bin, lib)
//     lies over the host's. No other path of the host is visible.
//   - /proc, /sys and /dev are its own. /dev holds the usual harmless devices, kmsg, fuse and net/tun. Block devices
//     cannot be opened. /proc and /sys are there a second time, in /run/uncovered, for root alone: the kernel wants a
//     user namespace to see them whole somewhere before it may mount them.
//   - Each cgroup hierarchy is mounted anew inside the cgroup namespace: the machine is its root, on version 1 and
//     version 2 alike. On version 2 init starts in the child cgroup "init", because a cgroup that has processes cannot
//     have children with controllers.
//   - All mounts are shared among the machine's mount namespaces, as after systemd's start, and private to the machine.
//   - eth0 has its primary address and the default route.
//   - /proc/sys is read-only except for what belongs to the machine's network and IPC namespaces. Settings of the whole
//     kernel that a kubelet wants to change are files of the machine, which start with the host's values and affect
//     nothing.
//
// # What is not like a computer
//
//   - It is no security boundary. Root in a machine has all capabilities of the hypervisor and no user namespace. The
//     precautions are against accidents.
//   - Memory and CPU time are limited as the instance type says. /proc/meminfo, /proc/cpuinfo and the CPU lists in
//     /sys/devices/system/cpu agree with the type, but the amounts of free memory are those of the first moment.
//     sched_getaffinity, /proc/stat, /proc/loadavg, /proc/uptime and the kernel log are the host's. A machine with more
//     CPUs than the host is not faster than the host.
//   - The size of the root volume is not enforced, and statfs tells the host's.
//   - Limits of the kernel as a whole are shared by all machines, above all fs.inotify.max_user_instances: each kubelet
//     takes about ten.
package container
