// Package fuse serves a flat directory of read-only files to the kernel: what
// EROFS needs to be mounted from them, and no more of the FUSE protocol than
// that.
//
// It exists for one property that libraries for FUSE do not have: the process
// that serves may die at any moment, and another one goes on. The kernel ends a
// FUSE connection when the last descriptor of it is closed, so somebody else
// (the agent) mounts and keeps the descriptor. What the new process must not
// need is anything that only the old one knew: files are known by numbers that
// the caller chooses for ever, no file has state from being open, and what the
// old process had read from the kernel and not answered is asked for again
// (FUSE_NOTIFY_RESEND, Linux 6.9).
//
// A process must never read, through any mount, what it serves itself: killed in
// the middle of that, it would wait for its own answer and never end.
package fuse
