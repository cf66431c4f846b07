package fuse

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"
)

// The protocol of include/uapi/linux/fuse.h, in the machine's byte order.
const (
	protocolMajor = 7
	// protocolMinor is the first with FUSE_HAS_RESEND.
	protocolMinor = 40

	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opInit        = 26
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42

	notifyResend = 7

	flagAsyncRead = 1 << 0
	flagExtended  = 1 << 30
	// flag2HasResend is FUSE_HAS_RESEND, in the second word of flags.
	flag2HasResend = 1 << (39 - 32)

	// openDirect has the kernel keep no pages of the file: EROFS, which reads
	// it, keeps its own.
	openDirect = 1 << 0

	rootNode = 1
	// firstNode is added to a file's number: below are the root and what the
	// protocol reserves.
	firstNode = 1 << 10

	inHeaderSize  = 40
	outHeaderSize = 16
	readInSize    = 40

	// requestSize is the least buffer that the kernel reads requests into. No
	// request to a read-only file system is larger.
	requestSize = 8192
	// maxRead is the longest read that the kernel is to ask for, in bytes.
	maxRead = 128 << 10
	// maxBackground is how many reads ahead the kernel may have outstanding.
	maxBackground = 64
)

// valid is how long the kernel may keep what it was told, in seconds. Nothing
// of a file ever changes.
const valid = math.MaxInt32

var native = binary.NativeEndian

// request is what the kernel asks.
type request struct {
	opcode uint32
	unique uint64
	node   uint64
	body   []byte
}

// parse takes a request apart. The body is part of data.
func parse(data []byte) (request, bool) {
	if len(data) < inHeaderSize || int(native.Uint32(data)) != len(data) {
		return request{}, false
	}
	return request{
		opcode: native.Uint32(data[4:]),
		unique: native.Uint64(data[8:]),
		node:   native.Uint64(data[16:]),
		body:   data[inHeaderSize:],
	}, true
}

// appendAnswer appends the header of an answer whose body has size bytes.
func appendAnswer(b []byte, unique uint64, errno unix.Errno, size int) []byte {
	b = native.AppendUint32(b, uint32(outHeaderSize+size))
	b = native.AppendUint32(b, uint32(-int32(errno)))
	return native.AppendUint64(b, unique)
}

// appendAttr appends a struct fuse_attr.
func appendAttr(b []byte, node uint64, mode uint32, size int64) []byte {
	b = native.AppendUint64(b, node)
	b = native.AppendUint64(b, uint64(size))
	b = native.AppendUint64(b, uint64(size+511)/512)
	b = append(b, make([]byte, 3*8+3*4)...) // times
	b = native.AppendUint32(b, mode)
	b = native.AppendUint32(b, 1)       // links
	b = append(b, make([]byte, 3*4)...) // owner, group, device
	b = native.AppendUint32(b, 4096)    // block size
	return native.AppendUint32(b, 0)    // flags
}

// appendEntry appends a struct fuse_entry_out.
func appendEntry(b []byte, node uint64, mode uint32, size int64) []byte {
	b = native.AppendUint64(b, node)
	b = native.AppendUint64(b, 0) // generation
	b = native.AppendUint64(b, valid)
	b = native.AppendUint64(b, valid)
	b = append(b, make([]byte, 2*4)...) // nanoseconds
	return appendAttr(b, node, mode, size)
}

// appendAttributes appends a struct fuse_attr_out.
func appendAttributes(b []byte, node uint64, mode uint32, size int64) []byte {
	b = native.AppendUint64(b, valid)
	b = append(b, make([]byte, 2*4)...) // nanoseconds, padding
	return appendAttr(b, node, mode, size)
}

// appendInit appends a struct fuse_init_out. What the kernel does not know of
// the flags it ignores.
func appendInit(b []byte) []byte {
	b = native.AppendUint32(b, protocolMajor)
	b = native.AppendUint32(b, protocolMinor)
	b = native.AppendUint32(b, maxRead) // readahead
	b = native.AppendUint32(b, flagAsyncRead|flagExtended)
	b = native.AppendUint16(b, maxBackground)
	b = native.AppendUint16(b, maxBackground*3/4) // congestion threshold
	b = native.AppendUint32(b, 4096)              // longest write, of which there are none
	b = native.AppendUint32(b, 1)                 // granularity of times
	b = native.AppendUint32(b, 0)                 // pages of a request, alignment
	b = native.AppendUint32(b, flag2HasResend)
	return append(b, make([]byte, 7*4)...)
}
