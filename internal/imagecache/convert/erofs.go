package convert

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"os"
	"slices"
	"strings"
)

// The form on disk is specified in the kernel's documentation
// (Documentation/filesystems/erofs.rst) and fs/erofs/erofs_fs.h.
const (
	magic        = 0xe0f5e1e2
	blockBits    = 12
	blockSize    = 1 << blockBits
	superblockAt = 1024
	slotBits     = 5 // inodes are numbered in units of 32 bytes
	inodeSize    = 64
	direntSize   = 12

	incompatChunked = 0x4

	maxName   = 255
	maxTarget = 4095
	maxXattr  = 65535
	// maxXattrs is what the attributes of one inode may take: their size, in
	// units of 4 bytes, has 16 bits.
	maxXattrs = 65534*4 + 12

	// maxInline is how long an inode may be with the end of its content behind
	// it. Longer ends have blocks of their own: two of these fit in a block
	// whatever comes, so that little is lost where the next one does not fit.
	maxInline = blockSize / 2

	noBlock = 0xffffffff
	// Chunks of zeros are left out. A chunk is 64 KiB, and larger in files with
	// more than 16,384 of them.
	minChunk  = 64 << 10
	maxChunks = 16 << 10
)

// File modes as the kernel has them.
const (
	modeType        = 0xf000
	modeFIFO        = 0x1000
	modeCharDevice  = 0x2000
	modeDirectory   = 0x4000
	modeBlockDevice = 0x6000
	modeRegular     = 0x8000
	modeSymlink     = 0xa000
)

// fileType is what directories say of a file.
var fileType = map[uint16]byte{
	modeRegular: 1, modeDirectory: 2, modeCharDevice: 3, modeBlockDevice: 4, modeFIFO: 5, modeSymlink: 7,
}

// Layouts of content.
const (
	layoutPlain  = 0
	layoutInline = 2
	layoutChunks = 4
)

// inode is a file of any kind.
type inode struct {
	mode        uint16
	uid, gid    uint32
	links       uint32
	device      uint32
	seconds     int64
	nanoseconds uint32
	// described: the archive has an entry of it.
	described bool
	// opaque directories hide what the layers beneath have in them.
	opaque bool
	xattrs []xattr
	size   int64

	// block is the first of the content, those of a whole file one behind the
	// other. chunks are the blocks where chunks of chunkSize begin.
	block     uint32
	chunkSize int64
	chunks    []uint32
	// tail is where the spool has the end of the content that goes behind the
	// inode, tailSize long.
	tail     int64
	tailSize int
	target   string            // of a symbolic link
	children map[string]*inode // of a directory

	// number is known when the inode's place is; the root's is 0.
	number uint64
	placed bool
	parent *inode
}

type xattr struct{ name, value string }

func (n *inode) isDirectory() bool { return n.mode&modeType == modeDirectory }

// sortedXattrs are those of the archive and what overlayfs has to know.
func (n *inode) sortedXattrs() []xattr {
	all := slices.Clone(n.xattrs)
	if n.opaque {
		all = append(all, xattr{overlayXattrs + "opaque", "y"})
	}
	slices.SortFunc(all, func(a, b xattr) int { return cmp.Compare(a.name, b.name) })
	return all
}

// xattrPrefixes have a number each; the one that is a whole name comes first.
var xattrPrefixes = []struct {
	prefix string
	index  byte
	whole  bool
}{
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"user.", 1, false},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

func splitXattr(name string) (index byte, rest string) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && (rest == "") == p.whole {
			return p.index, rest
		}
	}
	return 0, ""
}

func knownXattr(name string) bool {
	index, _ := splitXattr(name)
	return index != 0
}

func xattrSize(all []xattr) int {
	if len(all) == 0 {
		return 0
	}
	size := 12
	for _, x := range all {
		_, rest := splitXattr(x.name)
		size += align(4+len(rest)+len(x.value), 4)
	}
	return size
}

func encodeXattrs(all []xattr) []byte {
	if len(all) == 0 {
		return nil
	}
	b := make([]byte, 12)
	for _, x := range all {
		index, rest := splitXattr(x.name)
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.value)))
		b = append(b, rest...)
		b = append(b, x.value...)
		b = append(b, make([]byte, align(len(b), 4)-len(b))...)
	}
	return b
}

func align[T int | int64 | uint64](n, to T) T { return (n + to - 1) / to * to }

// writer writes a file system: content first, as it comes, then all the rest.
type writer struct {
	dst   Destination
	out   *bufio.Writer
	block uint64 // the next one
	spool *bufio.Writer
	// spooled is how long the spool is.
	spooled   int64
	spoolFile *os.File
	chunked   bool
	buffer    []byte
}

func newWriter(dst Destination, spool *os.File) (*writer, error) {
	w := &writer{dst: dst, out: bufio.NewWriterSize(dst, 1<<20), spool: bufio.NewWriterSize(spool, 256<<10), spoolFile: spool, buffer: make([]byte, minChunk)}
	return w, w.blocks(make([]byte, blockSize)) // the superblock's, which comes last
}

// blocks writes whole blocks, the last one filled up with zeros.
func (w *writer) blocks(p []byte) error {
	n := align(len(p), blockSize)
	if w.block += uint64(n >> blockBits); w.block >= noBlock {
		return unsupported("more than %d blocks", uint32(noBlock))
	}
	if _, err := w.out.Write(p); err != nil {
		return fmt.Errorf("writing a file system: %w", err)
	}
	if _, err := w.out.Write(make([]byte, n-len(p))); err != nil {
		return fmt.Errorf("writing a file system: %w", err)
	}
	return nil
}

// inline is how much of a content of that size goes behind the inode.
func inline(size int64, xattrs int) int {
	if tail := int(size % blockSize); inodeSize+xattrs+tail <= maxInline {
		return tail
	}
	return 0
}

// content writes a regular file's.
func (w *writer) content(n *inode, from io.Reader, size int64) error {
	n.size, n.block = size, uint32(w.block)
	n.tailSize = inline(size, xattrSize(n.sortedXattrs()))
	n.chunkSize = max(minChunk, int64(1)<<bits.Len64(uint64(max(size-1, 0)/maxChunks)))
	if n.chunkSize > int64(len(w.buffer)) {
		w.buffer = make([]byte, n.chunkSize)
	}
	for done := int64(0); done < size; done += n.chunkSize {
		chunk := w.buffer[:min(n.chunkSize, size-done)]
		if _, err := io.ReadFull(from, chunk); err != nil {
			return fmt.Errorf("reading a file's content: %w", noEOF(err))
		}
		last := done+int64(len(chunk)) == size
		zeros := len(chunk) >= minChunk && isZero(chunk)
		if zeros && n.chunks == nil {
			// It has a hole: what came before is chunks too.
			n.chunks = make([]uint32, 0, (size+n.chunkSize-1)/n.chunkSize)
			for at := int64(0); at < done; at += n.chunkSize {
				n.chunks = append(n.chunks, n.block+uint32(at>>blockBits))
			}
			n.tailSize = 0
			w.chunked = true
		}
		switch {
		case zeros:
			n.chunks = append(n.chunks, noBlock)
			continue
		case n.chunks != nil:
			n.chunks = append(n.chunks, uint32(w.block))
		case last && n.tailSize > 0:
			tail := chunk[len(chunk)-n.tailSize:]
			chunk = chunk[:len(chunk)-n.tailSize]
			if err := w.spoolTail(n, tail); err != nil {
				return err
			}
		}
		if err := w.blocks(chunk); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) spoolTail(n *inode, tail []byte) error {
	n.tail = w.spooled
	w.spooled += int64(len(tail))
	if _, err := w.spool.Write(tail); err != nil {
		return fmt.Errorf("keeping a file's end: %w", err)
	}
	return nil
}

func isZero(p []byte) bool {
	for len(p) >= 8 {
		if binary.NativeEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// finish writes all but the content and returns the file system's size.
func (w *writer) finish(root *inode) (int64, error) {
	if err := w.spool.Flush(); err != nil {
		return 0, fmt.Errorf("keeping files' ends: %w", err)
	}
	order := arrange(root)
	directories := w.block
	for _, n := range order {
		if n.isDirectory() {
			n.size = direntsSize(names(n))
			n.tailSize = inline(n.size, xattrSize(n.sortedXattrs()))
			n.block = uint32(directories)
			directories += uint64(align(n.size-int64(n.tailSize), blockSize) >> blockBits)
		} else if n.mode&modeType == modeSymlink {
			if n.tailSize = inline(n.size, xattrSize(n.sortedXattrs())); n.tailSize == 0 {
				n.block = uint32(directories)
				directories++
			}
		}
	}
	meta := directories
	if meta >= noBlock {
		return 0, unsupported("more than %d blocks", uint32(noBlock))
	}
	var at uint64
	for _, n := range order {
		at = startOf(n, at)
		n.number = at >> slotBits
		at += uint64(n.length())
	}
	for _, n := range order {
		data := []byte(n.target)
		if n.isDirectory() {
			data = dirents(n)
		}
		if err := w.blocks(data[:max(0, len(data)-n.tailSize)]); err != nil {
			return 0, err
		}
	}
	if w.block != meta {
		return 0, fmt.Errorf("directories end at block %d instead of %d", w.block, meta)
	}
	if err := w.inodes(order); err != nil {
		return 0, err
	}
	if err := w.out.Flush(); err != nil {
		return 0, fmt.Errorf("writing a file system: %w", err)
	}
	if _, err := w.dst.WriteAt(w.superblock(uint32(meta), len(order)), superblockAt); err != nil {
		return 0, fmt.Errorf("writing a file system: %w", err)
	}
	return int64(w.block) << blockBits, nil
}

// arrange gives inodes an order, each directory's beside each other, and counts
// their links.
func arrange(root *inode) []*inode {
	root.parent, root.placed, root.links = root, true, 2
	order := []*inode{root}
	waiting := []*inode{root}
	for len(waiting) > 0 {
		dir := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		var below []*inode
		for _, name := range slices.Sorted(maps.Keys(dir.children)) {
			n := dir.children[name]
			if n.isDirectory() {
				n.parent, n.links = dir, 2
				dir.links++
				below = append(below, n)
			} else {
				n.links++
			}
			if !n.placed {
				n.placed = true
				order = append(order, n)
			}
		}
		slices.Reverse(below)
		waiting = append(waiting, below...)
	}
	return order
}

// length of an inode with what follows it.
func (n *inode) length() int {
	size := inodeSize + xattrSize(n.sortedXattrs()) + n.tailSize
	if n.chunks != nil {
		size = align(size, 4) + 4*len(n.chunks)
	}
	return size
}

// startOf is where an inode begins, if the one before it ends at at. Its fixed
// part is in one block, and with a tail all of it is.
func startOf(n *inode, at uint64) uint64 {
	at = align(at, 1<<slotBits)
	together := inodeSize
	if n.tailSize > 0 {
		together = n.length()
	}
	if at%blockSize+uint64(together) > blockSize {
		at = align(at, blockSize)
	}
	return at
}

func (w *writer) inodes(order []*inode) error {
	var at uint64
	pad := func(to uint64) error {
		_, err := w.out.Write(make([]byte, to-at))
		at = to
		return err
	}
	for i, n := range order {
		if err := pad(n.number << slotBits); err != nil {
			return fmt.Errorf("writing a file system: %w", err)
		}
		b := n.encode(uint32(i + 1))
		b = append(b, encodeXattrs(n.sortedXattrs())...)
		switch {
		case n.chunks != nil:
			for _, c := range n.chunks {
				b = binary.LittleEndian.AppendUint32(b, c)
			}
		case n.tailSize == 0:
		case n.isDirectory():
			data := dirents(n)
			b = append(b, data[len(data)-n.tailSize:]...)
		case n.mode&modeType == modeSymlink:
			b = append(b, n.target...)
		default:
			tail := w.buffer[:n.tailSize]
			if _, err := w.spoolFile.ReadAt(tail, n.tail); err != nil {
				return fmt.Errorf("reading a file's end: %w", err)
			}
			b = append(b, tail...)
		}
		if len(b) != n.length() {
			return fmt.Errorf("an inode of %d bytes instead of %d", len(b), n.length())
		}
		if _, err := w.out.Write(b); err != nil {
			return fmt.Errorf("writing a file system: %w", err)
		}
		at += uint64(len(b))
	}
	if err := pad(align(at, blockSize)); err != nil {
		return fmt.Errorf("writing a file system: %w", err)
	}
	w.block += at >> blockBits
	return nil
}

// encode is the inode's fixed part.
func (n *inode) encode(ordinal uint32) []byte {
	layout, data := uint16(layoutPlain), n.block
	switch {
	case n.chunks != nil:
		layout, data = layoutChunks, uint32(bits.TrailingZeros64(uint64(n.chunkSize))-blockBits)
	case n.tailSize > 0:
		layout = layoutInline
	}
	switch n.mode & modeType {
	case modeCharDevice, modeBlockDevice, modeFIFO:
		data = n.device
	}
	xattrs := uint16(0)
	if size := xattrSize(n.sortedXattrs()); size > 0 {
		xattrs = uint16((size-12)/4 + 1)
	}
	b := make([]byte, 0, inodeSize)
	b = binary.LittleEndian.AppendUint16(b, 1|layout<<1) // the larger of the two forms
	b = binary.LittleEndian.AppendUint16(b, xattrs)
	b = binary.LittleEndian.AppendUint16(b, n.mode)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.size))
	b = binary.LittleEndian.AppendUint32(b, data)
	b = binary.LittleEndian.AppendUint32(b, ordinal)
	b = binary.LittleEndian.AppendUint32(b, n.uid)
	b = binary.LittleEndian.AppendUint32(b, n.gid)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.seconds))
	b = binary.LittleEndian.AppendUint32(b, n.nanoseconds)
	b = binary.LittleEndian.AppendUint32(b, n.links)
	return append(b, make([]byte, 16)...)
}

// entry is what a directory says of a name.
type entry struct {
	name string
	node *inode
}

func entries(dir *inode) []entry {
	all := make([]entry, 0, len(dir.children)+2)
	all = append(all, entry{".", dir}, entry{"..", dir.parent})
	for name, n := range dir.children {
		all = append(all, entry{name, n})
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all
}

func names(dir *inode) []string {
	all := make([]string, 0, len(dir.children)+2)
	for _, e := range entries(dir) {
		all = append(all, e.name)
	}
	return all
}

// inBlock is how many of the names, which are sorted, go into one block of a
// directory, and how many bytes they take there.
func inBlock(names []string) (n, bytes int) {
	for _, name := range names {
		if bytes+direntSize+len(name) > blockSize {
			break
		}
		bytes += direntSize + len(name)
		n++
	}
	return n, bytes
}

func direntsSize(names []string) int64 {
	var size int64
	for len(names) > 0 {
		n, bytes := inBlock(names)
		names = names[n:]
		if size += int64(bytes); len(names) > 0 {
			size = align(size, blockSize)
		}
	}
	return size
}

// dirents is a directory's content.
func dirents(dir *inode) []byte {
	all := entries(dir)
	left := names(dir)
	var b []byte
	for len(left) > 0 {
		n, _ := inBlock(left)
		at := n * direntSize
		for _, e := range all[:n] {
			b = binary.LittleEndian.AppendUint64(b, e.node.number)
			b = binary.LittleEndian.AppendUint16(b, uint16(at))
			b = append(b, fileType[e.node.mode&modeType], 0)
			at += len(e.name)
		}
		for _, e := range all[:n] {
			b = append(b, e.name...)
		}
		all, left = all[n:], left[n:]
		if len(left) > 0 {
			b = append(b, make([]byte, align(len(b), blockSize)-len(b))...)
		}
	}
	return b
}

func (w *writer) superblock(meta uint32, inodes int) []byte {
	b := make([]byte, 128)
	binary.LittleEndian.PutUint32(b[0:], magic)
	b[12] = blockBits
	binary.LittleEndian.PutUint16(b[14:], 0) // the root's number
	binary.LittleEndian.PutUint64(b[16:], uint64(inodes))
	binary.LittleEndian.PutUint32(b[36:], uint32(w.block))
	binary.LittleEndian.PutUint32(b[40:], meta)
	if w.chunked {
		binary.LittleEndian.PutUint32(b[80:], incompatChunked)
	}
	return b
}
