// Package convert makes a read-only file system of one layer of an image: of
// the layer's archive, as a registry has it, an EROFS image whose mount is what
// unpacking the archive would have made, as overlayfs wants it in a lower layer.
//
// The same archive always gives the same bytes: nothing in them comes from a
// clock, from chance or from where they were made. So two that convert a layer
// get the same file, and one that lost its copy can make it again and knows that
// it is the same.
//
// The archive is read once, from its beginning to its end. The content of files
// goes to the result as it arrives; what is kept in memory is what must be known
// of each file, and that is bounded, as is all that an archive may ask for.
//
//	┌────────────┬──────────────────┬─────────────┬──────────────────────────────┐
//	│ superblock │ content of files │ directories │ inodes, each with attributes │
//	│            │                  │             │ and a short content's bytes  │
//	└────────────┴──────────────────┴─────────────┴──────────────────────────────┘
//
// Inodes of one directory lie side by side, so that listing it reads little.
// Nothing is compressed: what is read over the network is what is used, and the
// kernel needs nothing to uncompress it with.
//
// Where unpacking depends on the layers beneath, a layer cannot be converted by
// itself, and Result.Implied or ErrUnsupported says so.
package convert
