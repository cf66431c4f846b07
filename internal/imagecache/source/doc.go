// Package source reads layers for as long as a pod needs them, wherever their
// bytes are at that time.
//
// A layer is read from the share, block by block as it is touched, and every
// block is checked (package layer). When the share goes away, becomes slow or
// has other bytes than it should, the layer's archive is fetched from the
// registry that the image is from and converted once more, which gives the same
// bytes; from then on the layer is read from that file. Whoever reads in the
// meantime waits for what comes first: the share's answer or the file.
//
// Before a pod depends on a layer none of this happens: the first thing that
// goes wrong is an error, and the layer is pulled as it would be without a cache.
package source
