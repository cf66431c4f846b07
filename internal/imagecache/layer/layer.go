package layer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

const (
	// BlockSize is the number of bytes that are encrypted and hashed together.
	BlockSize = 32 << 10
	// MaxSize is the largest content that can be written or opened. It keeps a
	// bad Layer from asking for any amount of memory.
	MaxSize = 1 << 40

	hashesPerNode = BlockSize / 32
)

// ErrCorrupt says that a file is not what its Layer says. Asking again is of no
// use, unlike after an error of the share itself.
var ErrCorrupt = errors.New("not what was written")

// Layer is what must be known of a layer to use it. Whoever has it can read the
// layer: it is given to those only who may pull the image.
type Layer struct {
	// Digest is that of the layer as the image's manifest names it, and DiffID
	// that of its uncompressed archive.
	Digest string `json:"digest"`
	DiffID string `json:"diffID"`
	// Path of the file, from the root of the share, with slashes.
	Path string `json:"path"`
	// Size in bytes of the content, which a Reader hands out. The file is
	// larger: FileSize.
	Size int64 `json:"size"`
	Root Sum   `json:"root"`
	Key  Key   `json:"key"`
}

// Sum is the root of a file's tree of hashes. As text it is in hexadecimal.
type Sum [32]byte

// Key is what a file is encrypted with. As text it is in hexadecimal.
type Key [32]byte

func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// MarshalText implements encoding.TextMarshaler.
func (s Sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sum) UnmarshalText(text []byte) error { return unmarshal(s[:], text) }

// String keeps keys out of logs and messages.
func (Key) String() string { return "(key)" }

// LogValue implements slog.LogValuer.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(text []byte) error { return unmarshal(k[:], text) }

func unmarshal(dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%d characters instead of %d", len(text), hex.EncodedLen(len(dst)))
	}
	_, err := hex.Decode(dst, text)
	return err
}

// FileSize is the length of the file of a content of size bytes.
func FileSize(size int64) int64 {
	levels := levelsOf(size)
	if len(levels) == 0 {
		return size
	}
	top := levels[len(levels)-1]
	return top.offset + top.length
}

// level is where the hashes of one level of the tree are in a file.
type level struct {
	offset, length int64
}

// levelsOf is the shape of the tree of a content of size bytes, the hashes of
// blocks first and the topmost node last.
func levelsOf(size int64) []level {
	var levels []level
	offset, below := size, size
	for {
		length := blocksOf(below) * 32
		if length == 0 {
			return nil
		}
		levels = append(levels, level{offset: offset, length: length})
		if length <= BlockSize {
			return levels
		}
		offset, below = offset+length, length
	}
}

func blocksOf(size int64) int64 { return (size + BlockSize - 1) / BlockSize }
