package watchstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 100_000)
	var stream bytes.Buffer
	for _, f := range []struct {
		number uint64
		data   []byte
	}{{1, []byte("a")}, {300, long}, {1, nil}} {
		if err := Write(&stream, f.number, f.data); err != nil {
			t.Fatal(err)
		}
	}
	whole := stream.String()
	r := bufio.NewReader(&stream)
	for _, want := range []struct {
		number uint64
		length int
	}{{1, 1}, {300, len(long)}, {1, 0}} {
		number, data, err := Read(r)
		if err != nil || number != want.number || len(data) != want.length {
			t.Errorf("read %d, %d bytes, %v; want %d, %d bytes", number, len(data), err, want.number, want.length)
		}
	}
	if _, _, err := Read(r); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}

	for name, cut := range map[string]string{
		"within a length": whole[:1], "within data": whole[:len(whole)-10], "too large": "\x01\xff\xff\xff\xff\x0f",
	} {
		r, err := bufio.NewReader(strings.NewReader(cut)), error(nil)
		for err == nil {
			_, _, err = Read(r)
		}
		if errors.Is(err, io.EOF) {
			t.Errorf("%s: taken for the stream's end", name)
		}
	}
}

func TestParse(t *testing.T) {
	want := Watch{Stream: 1764300000000000001, Number: 7}
	if got, err := Parse(want.String()); err != nil || got != want {
		t.Errorf("read %v, %v", got, err)
	}
	for _, wrong := range []string{"", "1", "1/", "/1", "1/2/3", "01/2", "+1/2", "1/-2", "1 /2", "99999999999999999999/1"} {
		if got, err := Parse(wrong); err == nil {
			t.Errorf("%q is read as %v", wrong, got)
		}
	}
}
