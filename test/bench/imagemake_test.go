package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteLayer(t *testing.T) {
	const size = 3_000_000
	write := func(number int) []byte {
		path := filepath.Join(t.TempDir(), "layer")
		if err := writeLayer(path, number, size); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	packed := write(2)
	if !bytes.Equal(packed, write(2)) {
		t.Error("the same layer has other bytes when it is made again")
	}
	if bytes.Equal(packed, write(3)) {
		t.Error("two layers are the same")
	}
	if half := size / 2; len(packed) < half*9/10 || len(packed) > half*12/10 {
		t.Errorf("%d bytes are compressed to %d, want half", size, len(packed))
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{}
	for r := tar.NewReader(unpacked); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			sizes[strings.Split(h.Name, "/")[2]] += h.Size
		}
	}
	if sizes["small"] != size*smallShare/100 || sizes["small"]+sizes["large"] != size {
		t.Errorf("it has %v bytes of files, want %d and %d %% of them small", sizes, size, smallShare)
	}
}
