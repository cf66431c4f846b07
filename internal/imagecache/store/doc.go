// Package store keeps the files of the image cache on a share: who writes them
// there, what they are called, what they are encrypted with, and which of them
// can be believed.
//
// A file holds one layer, by its DiffID: v1/layers/<hh>/<name>. Name and key are
// derived from a master key, which only Kip and the image cache's controller
// have, so that the same layer has the same file and nobody else can tell by a
// name what is in the cache. A file comes into being under another name and is
// renamed when it is whole, on disk and closed; from then on it is never written
// again.
//
// Behind the layer there is a seal: size and root, authenticated by a key that
// no cell is ever given. By it a controller that ended between making a file and
// writing down what it made knows, when it starts again, that the file is one of
// its own, although any cell may have written to the share.
package store
