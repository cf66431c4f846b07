// Package watchstream is what agents and Kip say to each other to have all
// watches of a cell on one stream.
//
// A cell's kubelet and kube-proxy have ten watches open, for hours, and next to
// nothing happens on them. As requests of HTTP/2 each takes a goroutine and its
// buffers in Kip, which thousands of cells multiply. So an agent asks for one
// stream (Path), and for a watch as ever, but for one more header, Header, that
// says under which number of which stream its events are to come. Kip judges
// the request as it would without the header. If the watch may be, it answers
// at once with the same header and no events, and those come on the stream, as
// frames:
//
//	number   uvarint, which watch
//	length   uvarint; 0: the watch has ended
//	data     what would be the next bytes of the answer
//
// An answer without the header is the answer: an error, or the watch itself of a
// Kip that knows no streams. When the stream ends, so have all its watches.
package watchstream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// Path is where an agent asks for the stream, and EndPath where it says that
	// nobody wants to hear of a watch any more.
	Path    = "/kip/v1/watches"
	EndPath = Path + "/end"
	// Header names a watch. The answer to Path has it too, with the number 0.
	Header = "Kip-Watch"
	// MediaType is the stream's.
	MediaType = "application/octet-stream"

	// maxFrame bounds a frame's data, in bytes: several times the largest object.
	maxFrame = 16 << 20
)

// Watch is one of a stream's watches. They are numbered from 1.
type Watch struct {
	Stream uint64 `json:"stream"`
	Number uint64 `json:"number"`
}

// String is the header's value.
func (w Watch) String() string {
	return strconv.FormatUint(w.Stream, 10) + "/" + strconv.FormatUint(w.Number, 10)
}

// Parse reads the header's value.
func Parse(value string) (Watch, error) {
	stream, number, _ := strings.Cut(value, "/")
	var w Watch
	var err error
	if w.Stream, err = strconv.ParseUint(stream, 10, 64); err == nil {
		w.Number, err = strconv.ParseUint(number, 10, 64)
	}
	if err != nil || w.String() != value {
		return Watch{}, fmt.Errorf("%q is not how a watch of a stream is named", value)
	}
	return w, nil
}

// Write writes a frame. Without data it says that the watch has ended.
func Write(w io.Writer, number uint64, data []byte) error {
	head := binary.AppendUvarint(make([]byte, 0, 2*binary.MaxVarintLen64), number)
	if _, err := w.Write(binary.AppendUvarint(head, uint64(len(data)))); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// Read reads a frame. The error is io.EOF if the stream ends before one.
func Read(r *bufio.Reader) (number uint64, data []byte, err error) {
	if number, err = binary.ReadUvarint(r); err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(r)
	if err == nil && length > maxFrame {
		err = fmt.Errorf("a frame of %d bytes is too large", length)
	}
	if err == nil {
		data = make([]byte, length)
		_, err = io.ReadFull(r, data)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return number, data, err
}
