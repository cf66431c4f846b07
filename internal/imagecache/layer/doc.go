// Package layer is the form in which a layer of an image lies in the image
// cache: on a share that any cell may read and perhaps write, so that nothing
// on it is believed and nothing on it can be read without a key.
//
// A file holds the bytes of one file system image, which this package does not
// look into, in blocks of 32 KiB, and after them the hashes of the blocks:
//
//	┌─────────┬─────────┬───┬──────────────┬─────────┬─────┬──────────────┐
//	│ block 0 │ block 1 │ … │ block n, the │ hashes  │ … of│ the topmost, │
//	│         │         │   │ last: short  │ of them │ those│ at most 1,024│
//	└─────────┴─────────┴───┴──────────────┴─────────┴─────┴──────────────┘
//
// Blocks are encrypted with AES-256 in counter mode, the counter starting from
// zero at the file's beginning: a key must be used for one content only. The
// hashes (SHA-256, of the encrypted blocks) form a tree whose nodes are as
// large as blocks and hold 1,024 hashes each; a hash of the topmost node and
// the content's size is the root. Root and key are in a [Layer], which comes
// over a way that is trusted, and never from the share.
//
// A [Reader] hands out nothing that it did not check against the root: a byte
// that was changed, moved or cut off is [ErrCorrupt]. What may follow the tree
// in a file is not looked at.
//
// The size of a block weighs what is read in vain against what it costs to
// check. A process touches a few percent of an image, in pieces that the
// kernel's read-ahead makes 16 to 128 KiB long: smaller blocks would read
// hardly less, and have more to hash and a larger tree (at 32 KiB it is a
// thousandth of the content, and one of its nodes covers 32 MiB); with 64 KiB a
// lone page of metadata costs twice as much.
//
// The package needs nothing but the standard library, so that small programs
// can have it.
package layer
