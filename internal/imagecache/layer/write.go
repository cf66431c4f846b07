package layer

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Write writes the file of what src holds, encrypted with key, and returns the
// root of its tree and the content's size. The same content and key give the
// same file. The tree is kept in memory until the end: a thousandth of the
// content.
func Write(dst io.Writer, src io.Reader, key Key) (Sum, int64, error) {
	out := bufio.NewWriterSize(dst, 8*BlockSize)
	stream, err := newStream(key, 0)
	if err != nil {
		return Sum{}, 0, err
	}
	var size int64
	var hashes []byte
	block := make([]byte, BlockSize)
	for {
		n, err := io.ReadFull(src, block)
		if n > 0 {
			if size += int64(n); size > MaxSize {
				return Sum{}, 0, fmt.Errorf("the content is larger than %d bytes", int64(MaxSize))
			}
			stream.XORKeyStream(block[:n], block[:n])
			sum := sha256.Sum256(block[:n])
			hashes = append(hashes, sum[:]...)
			if _, err := out.Write(block[:n]); err != nil {
				return Sum{}, 0, fmt.Errorf("writing a layer's blocks: %w", err)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return Sum{}, 0, fmt.Errorf("reading a layer's content: %w", err)
		}
	}
	for {
		if _, err := out.Write(hashes); err != nil {
			return Sum{}, 0, fmt.Errorf("writing a layer's hashes: %w", err)
		}
		if len(hashes) <= BlockSize {
			break
		}
		var above []byte
		for node := range nodes(hashes) {
			sum := sha256.Sum256(node)
			above = append(above, sum[:]...)
		}
		hashes = above
	}
	if err := out.Flush(); err != nil {
		return Sum{}, 0, fmt.Errorf("writing a layer's hashes: %w", err)
	}
	return rootOf(size, hashes), size, nil
}

// nodes cuts a level's hashes into nodes.
func nodes(hashes []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(hashes) > 0 {
			n := min(len(hashes), BlockSize)
			if !yield(hashes[:n]) {
				return
			}
			hashes = hashes[n:]
		}
	}
}

// rootOf hashes the size too, as trees of different shapes may have the same
// topmost node, and begins with words that no block begins with by accident.
func rootOf(size int64, top []byte) Sum {
	h := sha256.New()
	h.Write([]byte("kip image layer 1\x00"))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(size)))
	h.Write(top)
	return Sum(h.Sum(nil))
}

// newStream is the cipher from a block of the file on.
func newStream(key Key, block int64) (cipher.Stream, error) {
	c, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("making a layer's cipher: %w", err)
	}
	return streamAt(c, block), nil
}

func streamAt(c cipher.Block, block int64) cipher.Stream {
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(block)*(BlockSize/aes.BlockSize))
	return cipher.NewCTR(c, counter[:])
}
