package ami

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
)

// blockSize is how large EBS's blocks are, in bytes.
const blockSize = 512 << 10

const gibibyte = 1 << 30

// content is what is on a disk.
type content struct {
	// blocks are those that hold something, in order.
	blocks []block
	// sizeGiB is the size of a volume that holds them.
	sizeGiB int64
	// hash is short, and the same for disks with the same content.
	hash string
}

type block struct {
	index int32
	sum   [sha256.Size]byte
}

var zeros = make([]byte, blockSize)

// survey reads a disk to its end.
func survey(disk io.ReaderAt) (content, error) {
	var c content
	whole := sha256.New()
	buffer := make([]byte, blockSize)
	for index := int32(0); ; index++ {
		err := readBlock(disk, index, buffer)
		if errors.Is(err, io.EOF) {
			c.sizeGiB = max(1, (int64(index)*blockSize+gibibyte-1)/gibibyte)
			c.hash = hex.EncodeToString(whole.Sum(nil)[:6])
			return c, nil
		}
		if err != nil {
			return content{}, err
		}
		if bytes.Equal(buffer, zeros) {
			continue
		}
		b := block{index, sha256.Sum256(buffer)}
		c.blocks = append(c.blocks, b)
		whole.Write(binary.BigEndian.AppendUint32(nil, uint32(index)))
		whole.Write(b.sum[:])
	}
}

// readBlock fills buffer; what is beyond the disk's end is zeros. A block that begins there is io.EOF.
func readBlock(disk io.ReaderAt, index int32, buffer []byte) error {
	n, err := disk.ReadAt(buffer, int64(index)*blockSize)
	clear(buffer[n:])
	if n > 0 && errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
