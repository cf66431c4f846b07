// Package registry knows where images are asked for: at the configured mirrors
// first, as a cell's containerd would, then at the registry that the image names.
//
// Image names are somebody's input, and Kip's place in the network is not that
// of a cell: registries are reached over https only and never at an address of
// this machine or of the link (metadata services), unless the configuration
// names them as a mirror.
package registry
