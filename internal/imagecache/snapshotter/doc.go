// Package snapshotter is containerd's snapshotter in a cell that has an image
// cache: like containerd's own overlayfs snapshotter, but that a layer which the
// cache has is not unpacked. It is mounted.
//
// containerd asks for a place to unpack each layer of an image to (Prepare), and
// says which layer it will be (the label containerd.io/snapshot.ref, and what the
// CRI plugin adds: image, manifest and digest). If Kip grants the layer, the
// snapshotter serves it as a file (packages fuse and source), mounts that file as
// EROFS, and answers that the snapshot exists already: containerd then does not
// download the layer. In every other case it makes a directory, and all goes on
// as without a cache. Above the layers, of both kinds, is overlayfs.
//
// What Kip grants is layers of the manifest that containerd got from the
// registry, with the pod's own rights. The name of a snapshot that containerd
// asks for is a hash of the uncompressed layers up to there; a granted layer is
// used only where its own hash gives that name.
//
// A snapshot is a directory with a file that describes it. A process that is
// killed leaves nothing half made that the next one would take for whole.
package snapshotter
