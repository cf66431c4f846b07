// Package ociimage makes container images out of local files, and writes and
// reads them as archives, without a container engine. The same files always
// make the same image, to the digest.
package ociimage
