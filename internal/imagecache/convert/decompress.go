package convert

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the most memory that zstd may want: what its own command takes
// without being asked.
const maxWindow = 128 << 20

// decompress tells what a stream is compressed with by its first bytes, as media
// types are not always right, and undoes it. What it returns must be called when
// the stream is done with.
func decompress(from *bufio.Reader) (io.Reader, func(), error) {
	start, err := from.Peek(4)
	if err != nil && len(start) == 0 && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("reading a layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(from)
		if err != nil {
			return nil, nil, fmt.Errorf("uncompressing a layer: %w", err)
		}
		return z, func() {}, nil
	case bytes.Equal(start, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(start) == 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("uncompressing a layer: %w", err)
		}
		return z, z.Close, nil
	}
	return from, func() {}, nil
}
