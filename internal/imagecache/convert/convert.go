package convert

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// limits are what an archive may ask for.
type limits struct {
	content int64 // bytes, of the uncompressed archive and of all files
	files   int
	kept    int64 // bytes of names, attributes and targets of links
}

// usual is far from what images have. For one that has more there is the pull
// from the registry.
var usual = limits{content: 64 << 30, files: 2_000_000, kept: 256 << 20}

// maxPath is the kernel's.
const maxPath = 4096

// ErrUnsupported says that a layer is not one that can be converted, now or
// later. It is pulled and unpacked as ever.
var ErrUnsupported = errors.New("the layer cannot be a file system by itself")

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Version is that of the form of file systems: another one of the same archive
// has another number.
const Version = 1

// Result says what was converted.
type Result struct {
	// Digest is that of the archive as it was read, DiffID that of it
	// uncompressed. Only they say that it is the layer that was asked for, and
	// that all of it came.
	Digest, DiffID string
	// Size of the file system in bytes.
	Size int64
	// Implied is a directory that the archive has files in and says nothing
	// about, empty if there is none. Unpacking takes its owner and mode from the
	// layers beneath, which only the lowest layer of an image does not have:
	// only as that may the result be used.
	Implied string
}

// Destination is where a file system is written to: an empty file.
type Destination interface {
	io.Writer
	io.WriterAt
}

// Convert reads a layer's archive, plain or compressed with gzip or zstd, to
// its end and writes the file system. A file in the directory scratch, which is
// gone when Convert returns, holds up to half a block of each file meanwhile.
// After an error what was written is of no use.
func Convert(ctx context.Context, dst Destination, archive io.Reader, scratch string) (Result, error) {
	return convert(ctx, dst, archive, scratch, usual)
}

func convert(ctx context.Context, dst Destination, archive io.Reader, scratch string, allowed limits) (Result, error) {
	compressed := &counted{from: archive, ctx: ctx, sum: sha256.New()}
	plain, closePlain, err := decompress(bufio.NewReaderSize(compressed, 1<<20))
	if err != nil {
		return Result{}, err
	}
	defer closePlain()
	content := &counted{from: plain, ctx: ctx, sum: sha256.New(), limit: allowed.content}

	spool, err := os.CreateTemp(scratch, "convert-")
	if err != nil {
		return Result{}, fmt.Errorf("making room for a layer's small files: %w", err)
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil {
		return Result{}, fmt.Errorf("making room for a layer's small files: %w", err)
	}
	w, err := newWriter(dst, spool)
	if err != nil {
		return Result{}, err
	}
	t := &tree{out: w, allowed: allowed, root: newDirectory()}
	if err := t.read(tar.NewReader(content)); err != nil {
		return Result{}, fmt.Errorf("converting a layer: %w", err)
	}
	// The digests are of everything, also of what follows the archive's end.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return Result{}, fmt.Errorf("converting a layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, compressed); err != nil {
		return Result{}, fmt.Errorf("converting a layer: %w", err)
	}
	size, err := w.finish(t.root)
	if err != nil {
		return Result{}, fmt.Errorf("converting a layer: %w", err)
	}
	return Result{Digest: compressed.digest(), DiffID: content.digest(), Size: size, Implied: implied(t.root, "")}, nil
}

// counted hashes what is read through it, and ends with the context.
type counted struct {
	from  io.Reader
	ctx   context.Context //nolint:containedctx // of the call that made it
	sum   hash.Hash
	limit int64
	n     int64
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.from.Read(p)
	c.sum.Write(p[:n])
	if c.n += int64(n); c.limit > 0 && c.n > c.limit {
		return n, unsupported("more than %d bytes", c.limit)
	}
	return n, err
}

func (c *counted) digest() string { return "sha256:" + hex.EncodeToString(c.sum.Sum(nil)) }

// Names with a meaning in archives of layers.
const (
	whiteout       = ".wh."
	whiteoutOfAUFS = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	xattrRecord = "SCHILY.xattr."
	// overlayXattrs are overlayfs's own, which an archive does not set.
	overlayXattrs = "trusted.overlay."
)

// tree is what an archive unpacks to.
type tree struct {
	out     *writer
	allowed limits
	root    *inode
	// What there is of what is limited.
	size, kept int64
	files      int
	// hidden are names with a whiteout. What the archive itself has under the
	// name is not hidden by it, in whatever order they come.
	hidden []place
}

// place is a name in a directory.
type place struct {
	dir  *inode
	name string
}

func newDirectory() *inode {
	return &inode{mode: modeDirectory | 0o755, children: map[string]*inode{}}
}

func (t *tree) read(archive *tar.Reader) error {
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
				return unsupported("its archive: %v", err)
			}
			return err
		}
		if err := t.add(header, archive); err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
	}
	for _, h := range t.hidden {
		switch there := h.dir.children[h.name]; {
		case there == nil:
			h.dir.children[h.name] = &inode{mode: modeCharDevice}
		case there.isDirectory():
			there.opaque = true
		}
	}
	return nil
}

// add takes one entry of the archive.
func (t *tree) add(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if err := t.count(h.Size, len(h.Name)+len(h.Linkname)); err != nil {
		return err
	}
	full := path.Clean("/" + h.Name)
	if len(full) > maxPath {
		return unsupported("a path of %d bytes", len(full))
	}
	if full == "/" {
		if h.Typeflag != tar.TypeDir {
			return unsupported("its root is not a directory")
		}
		return t.describe(t.root, h)
	}
	parent, name := path.Split(full)
	dir, err := t.directory(parent)
	if err != nil {
		return err
	}
	switch {
	case name == whiteoutOpaque:
		dir.opaque = true
		return nil
	case strings.HasPrefix(name, whiteoutOfAUFS):
		return nil
	case strings.HasPrefix(name, whiteout):
		hidden := strings.TrimPrefix(name, whiteout)
		if hidden == "" || hidden == "." || hidden == ".." {
			return unsupported("a whiteout of nothing")
		}
		t.hidden = append(t.hidden, place{dir, hidden})
		return nil
	}
	if len(name) > maxName {
		return unsupported("a name of %d bytes", len(name))
	}
	existing := dir.children[name]
	if h.Typeflag == tar.TypeLink {
		target, err := t.linked(h.Linkname)
		if err != nil {
			return err
		}
		dir.children[name] = target
		return nil
	}
	if h.Typeflag == tar.TypeDir && existing != nil && existing.isDirectory() {
		return t.describe(existing, h)
	}
	node := &inode{}
	if err := t.describe(node, h); err != nil {
		return err
	}
	switch node.mode & modeType {
	case modeDirectory:
		node.children = map[string]*inode{}
	case modeRegular:
		if err := t.out.content(node, content, h.Size); err != nil {
			return err
		}
	case modeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxTarget {
			return unsupported("a symbolic link to %d bytes", len(h.Linkname))
		}
		node.target = h.Linkname
		node.size = int64(len(h.Linkname))
	case modeCharDevice, modeBlockDevice:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return unsupported("device %d:%d", h.Devmajor, h.Devminor)
		}
		node.device = uint32(h.Devminor&0xff) | uint32(h.Devmajor)<<8 | uint32(h.Devminor&^0xff)<<12
	}
	dir.children[name] = node
	return nil
}

// count adds a file of that size, of which kept bytes stay in memory beside the
// inode.
func (t *tree) count(size int64, kept int) error {
	if t.files++; t.files > t.allowed.files {
		return unsupported("more than %d files", t.allowed.files)
	}
	if size > t.allowed.content-t.size {
		return unsupported("files of more than %d bytes", t.allowed.content)
	}
	t.size += size
	return t.keep(kept)
}

func (t *tree) keep(bytes int) error {
	if t.kept += int64(bytes); t.kept > t.allowed.kept {
		return unsupported("names and attributes of more than %d bytes", t.allowed.kept)
	}
	return nil
}

// describe sets what every kind of file has.
func (t *tree) describe(node *inode, h *tar.Header) error {
	kind, ok := map[byte]uint16{
		tar.TypeReg: modeRegular, '\x00': modeRegular, tar.TypeCont: modeRegular, tar.TypeGNUSparse: modeRegular,
		tar.TypeDir: modeDirectory, tar.TypeSymlink: modeSymlink, tar.TypeFifo: modeFIFO,
		tar.TypeChar: modeCharDevice, tar.TypeBlock: modeBlockDevice,
	}[h.Typeflag]
	if !ok {
		return unsupported("an entry of type %q", h.Typeflag)
	}
	if h.Uid < 0 || int64(h.Uid) > 1<<32-2 || h.Gid < 0 || int64(h.Gid) > 1<<32-2 {
		return unsupported("owner %d:%d", h.Uid, h.Gid)
	}
	node.mode = kind | uint16(h.Mode)&0o7777
	node.uid, node.gid = uint32(h.Uid), uint32(h.Gid)
	node.seconds, node.nanoseconds = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	node.described = true
	node.xattrs = nil
	for record, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || strings.HasPrefix(name, overlayXattrs) || !knownXattr(name) {
			continue // the kernel would not take unknown ones either
		}
		if len(name) > maxName || len(value) > maxXattr {
			return unsupported("attribute %q of %d bytes", name, len(value))
		}
		if err := t.keep(len(name) + len(value)); err != nil {
			return err
		}
		node.xattrs = append(node.xattrs, xattr{name, value})
	}
	if xattrSize(node.sortedXattrs()) > maxXattrs {
		return unsupported("more attributes than an inode has room for")
	}
	return nil
}

// directory is the one at a path, which is clean and absolute. Symbolic links
// on the way are followed, as unpacking does; what is missing is made.
func (t *tree) directory(name string) (*inode, error) {
	dir := t.root
	at := []*inode{} // the directories above dir
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if n := len(at); n > 0 {
				dir, at = at[n-1], at[:n-1]
			}
			continue
		}
		next := dir.children[part]
		switch {
		case next == nil:
			if len(part) > maxName {
				return nil, unsupported("a name of %d bytes", len(part))
			}
			if err := t.count(0, len(part)); err != nil {
				return nil, err
			}
			next = newDirectory()
			dir.children[part] = next
		case next.isDirectory():
		case next.mode&modeType == modeSymlink:
			if links++; links > 255 {
				return nil, unsupported("%s: too many symbolic links", name)
			}
			if strings.HasPrefix(next.target, "/") {
				dir, at = t.root, at[:0]
			}
			todo = append(strings.Split(next.target, "/"), todo...)
			continue
		default:
			return nil, unsupported("%s is not a directory", part)
		}
		at = append(at, dir)
		dir = next
	}
	return dir, nil
}

// linked is the file that a hard link is to. One of a layer beneath would have
// to be copied from there.
func (t *tree) linked(name string) (*inode, error) {
	parent, base := path.Split(path.Clean("/" + name))
	dir, err := t.directory(parent)
	if err != nil {
		return nil, err
	}
	switch target := dir.children[base]; {
	case target == nil:
		return nil, unsupported("a hard link to %q, which is not in it", name)
	case target.isDirectory():
		return nil, unsupported("a hard link to the directory %q", name)
	default:
		return target, nil
	}
}

// implied is the first directory at or beneath a path that has no entry of its
// own. The root does without one: what is mounted above it is everybody's.
func implied(dir *inode, at string) string {
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		n := dir.children[name]
		if !n.isDirectory() {
			continue
		}
		if !n.described {
			return at + "/" + name
		}
		if found := implied(n, at+"/"+name); found != "" {
			return found
		}
	}
	return ""
}
