// Package imagecache is the agent's part of the image cache, in a cell that has
// one: it mounts the share, keeps the file system that layers are served in
// open, and says what kip-snapshotter is to do. Package agent runs that program
// beside containerd and restarts it.
//
// Nothing waits for the share. What is not there when a pod's image is pulled is
// pulled from its registry.
package imagecache
