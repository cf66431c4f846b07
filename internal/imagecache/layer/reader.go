package layer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// readBlocks is how many blocks a Reader asks for at once at most.
	readBlocks = 32
	// keptBlocks is how many blocks it keeps that were asked for in part.
	keptBlocks = 8
)

// Reader reads the content of a layer's file and hands out nothing that it did
// not check. It may be used by many at once. It reads from the file what it is
// asked for, in whole blocks, and keeps the nodes of the tree that it needed on
// the way, a thousandth of the content at most. Of the content it keeps some
// blocks of which only a part was asked for: file systems ask for pages, one
// beside the other, and each would cost its block again.
type Reader struct {
	file   io.ReaderAt
	size   int64
	cipher cipher.Block
	levels []level
	// nodes of each level that were read and checked.
	nodes   [][]atomic.Pointer[[]byte]
	kept    [keptBlocks]atomic.Pointer[keptBlock]
	buffers sync.Pool
}

// keptBlock is a block's content, checked.
type keptBlock struct {
	number  int64
	content []byte
}

var _ io.ReaderAt = (*Reader)(nil)

// Open reads and checks the root of a file's tree. Errors are those of the file,
// or ErrCorrupt.
func Open(file io.ReaderAt, l Layer) (*Reader, error) {
	if l.Size < 0 || l.Size > MaxSize {
		return nil, fmt.Errorf("a layer of %d bytes", l.Size)
	}
	c, err := aes.NewCipher(l.Key[:])
	if err != nil {
		return nil, fmt.Errorf("making a layer's cipher: %w", err)
	}
	r := &Reader{file: file, size: l.Size, cipher: c, levels: levelsOf(l.Size)}
	r.buffers.New = func() any { b := make([]byte, readBlocks*BlockSize); return &b }
	for _, level := range r.levels {
		r.nodes = append(r.nodes, make([]atomic.Pointer[[]byte], blocksOf(level.length)))
	}
	var top []byte
	if n := len(r.levels); n > 0 {
		top = make([]byte, r.levels[n-1].length)
		if err := r.read(top, r.levels[n-1].offset); err != nil {
			return nil, err
		}
		r.nodes[n-1][0].Store(&top)
	}
	if rootOf(l.Size, top) != l.Root {
		return nil, fmt.Errorf("the root of a layer's hashes: %w", ErrCorrupt)
	}
	return r, nil
}

// Size of the content.
func (r *Reader) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt. With an error it returns how much of p, from
// its beginning, is good.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("reading a layer before its beginning")
	}
	want := len(p)
	if off >= r.size {
		p = nil
	} else {
		p = p[:min(int64(want), r.size-off)]
	}
	buffer, ok := r.buffers.Get().(*[]byte)
	if !ok {
		return 0, errors.New("reading a layer without a buffer")
	}
	defer r.buffers.Put(buffer)
	done := r.readKept(p, off)
	for done < len(p) {
		n, err := r.readSome(p[done:], off+int64(done), *buffer)
		done += n
		if err != nil {
			return done, err
		}
	}
	if done < want {
		return done, io.EOF
	}
	return done, nil
}

// readKept reads what of the first block was kept, and returns how much that is.
func (r *Reader) readKept(p []byte, off int64) int {
	number := off / BlockSize
	b := r.kept[number%keptBlocks].Load()
	if len(p) == 0 || b == nil || b.number != number {
		return 0
	}
	return copy(p, b.content[off-number*BlockSize:])
}

// readSome reads the beginning of p, as much as goes into the buffer.
func (r *Reader) readSome(p []byte, off int64, buffer []byte) (int, error) {
	first := off / BlockSize
	start := first * BlockSize
	end := min(blocksOf(off+int64(len(p)))*BlockSize, start+int64(len(buffer)), r.size)
	encrypted := buffer[:end-start]
	if err := r.read(encrypted, start); err != nil {
		return 0, err
	}
	done := 0
	for i := first; len(encrypted) > 0 && done < len(p); i++ {
		block := encrypted[:min(len(encrypted), BlockSize)]
		encrypted = encrypted[len(block):]
		if err := r.check(0, i, block); err != nil {
			return done, err
		}
		streamAt(r.cipher, i).XORKeyStream(block, block)
		n := copy(p[done:], block[off+int64(done)-i*BlockSize:])
		if done += n; n < len(block) {
			r.kept[i%keptBlocks].Store(&keptBlock{i, bytes.Clone(block)})
		}
	}
	return done, nil
}

// check compares what was read, block or node number i of what the level has
// the hashes of, with its hash.
func (r *Reader) check(lvl int, i int64, data []byte) error {
	node, err := r.node(lvl, i/hashesPerNode)
	if err != nil {
		return err
	}
	at := i % hashesPerNode * 32
	if sha256.Sum256(data) != Sum(node[at:at+32]) {
		return fmt.Errorf("block %d at height %d of a layer's file: %w", i, lvl, ErrCorrupt)
	}
	return nil
}

// node is a node of the tree, checked. Two that need the same one at a time
// both read it; the topmost is there since Open.
func (r *Reader) node(lvl int, i int64) ([]byte, error) {
	kept := &r.nodes[lvl][i]
	if node := kept.Load(); node != nil {
		return *node, nil
	}
	l := r.levels[lvl]
	node := make([]byte, min(BlockSize, l.length-i*BlockSize))
	if err := r.read(node, l.offset+i*BlockSize); err != nil {
		return nil, err
	}
	if err := r.check(lvl+1, i, node); err != nil {
		return nil, err
	}
	kept.Store(&node)
	return node, nil
}

// read fills p from the file. A file that ends too early was cut off.
func (r *Reader) read(p []byte, off int64) error {
	n, err := r.file.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("a layer's file ends at %d: %w", off+int64(n), ErrCorrupt)
	case err == nil:
		return fmt.Errorf("reading a layer's file: %w", io.ErrNoProgress)
	}
	return fmt.Errorf("reading a layer's file: %w", err)
}
