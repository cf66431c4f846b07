package podlogs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// FromFile turns a container's log file as the container runtime writes it,
//
//	2026-11-01T12:00:00.000000000Z stdout F the text of a line
//	2026-11-01T12:00:00.000000000Z stderr P the first part of a longer one
//
// into the lines of a Source. It may be given anything: what is not of this
// form passes as text. Closing it closes in.
func FromFile(in io.ReadCloser) io.ReadCloser {
	return &fileReader{file: in, in: bufio.NewReaderSize(in, 64<<10), lineBegins: true, recordBegins: true}
}

type fileReader struct {
	file io.Closer
	in   *bufio.Reader
	// out is what was converted and not yet read.
	out []byte
	// lineBegins: the next text begins a line of the Source. recordBegins: the
	// next byte of the file begins a record.
	lineBegins, recordBegins bool
	// partial: the record that is being read is not the last one of its line.
	partial bool
	err     error
}

func (r *fileReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.next()
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

func (r *fileReader) Close() error { return r.file.Close() }

// next converts a record, or a piece of one that is longer than the buffer.
func (r *fileReader) next() {
	piece, err := r.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
	}
	r.err = err
	whole := bytes.HasSuffix(piece, []byte("\n"))
	// Both are parts of a buffer that the next ReadSlice overwrites, and that is
	// not called before all of out was read.
	stamp, text := []byte(nil), piece
	if r.recordBegins {
		stamp, text, r.partial = cutRecord(piece)
	}
	if r.partial && whole {
		text = text[:len(text)-1]
	}
	if r.lineBegins && len(stamp) > 0 {
		text = append(append(make([]byte, 0, len(stamp)+1+len(text)), stamp...), append([]byte(" "), text...)...)
	}
	r.out = text
	r.recordBegins = whole
	r.lineBegins = whole && !r.partial
}

// cutRecord takes a record apart. Without a stamp it is none.
func cutRecord(record []byte) (stamp, text []byte, partial bool) {
	stamp, rest, ok := bytes.Cut(record, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || !ok3 || string(stream) != "stdout" && string(stream) != "stderr" {
		return nil, record, false
	}
	if when, _ := cutStamp(record); when.IsZero() {
		return nil, record, false
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	return stamp, text, string(tag) == "P"
}
