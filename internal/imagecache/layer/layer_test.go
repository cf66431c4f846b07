package layer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// twoLevels is a size whose tree has two levels, and a bit more.
const twoLevels = (hashesPerNode+2)*BlockSize + 17

var key = Key{1, 2, 3}

func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)}).Read(b)
	return b
}

// written is the file of a content, and what must be known of it.
func written(tb testing.TB, content []byte) ([]byte, Layer) {
	tb.Helper()
	var file bytes.Buffer
	root, size, err := Write(&file, bytes.NewReader(content), key)
	if err != nil {
		tb.Fatal(err)
	}
	return file.Bytes(), Layer{Size: size, Root: root, Key: key}
}

func readAll(file []byte, l Layer) ([]byte, error) {
	r, err := Open(bytes.NewReader(file), l)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, BlockSize - 1, BlockSize, BlockSize + 1, 5 * BlockSize, twoLevels} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			content := random(size)
			file, l := written(t, content)
			if l.Size != int64(size) || FileSize(l.Size) != int64(len(file)) {
				t.Errorf("size %d, file of %d bytes instead of %d", l.Size, len(file), FileSize(l.Size))
			}
			got, err := readAll(file, l)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, error %v", len(got), err)
			}
			got, err = readAll(append(bytes.Clone(file), "what follows"...), l)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("with something behind it: read %d bytes, error %v", len(got), err)
			}
			if size >= 16 && bytes.Contains(file, content[:16]) {
				t.Error("the content can be read without the key")
			}
		})
	}
}

func TestSameContentSameFile(t *testing.T) {
	content := random(3*BlockSize + 5)
	file, l := written(t, content)
	var again bytes.Buffer
	root, _, err := Write(&again, iotest.HalfReader(bytes.NewReader(content)), key)
	if err != nil || root != l.Root || !bytes.Equal(again.Bytes(), file) {
		t.Errorf("another file: %v", err)
	}
	other, _, err := Write(io.Discard, bytes.NewReader(content), Key{9})
	if err != nil || other == l.Root {
		t.Errorf("the same root with another key: %v", err)
	}
}

// TestReadAt reads pieces at random places, all at once.
func TestReadAt(t *testing.T) {
	content := random(twoLevels)
	file, l := written(t, content)
	r, err := Open(bytes.NewReader(file), l)
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for seed := range uint64(8) {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 0))
			for range 50 {
				off, length := rnd.IntN(len(content)+10), rnd.IntN(3*BlockSize)
				want := content[min(off, len(content)):min(off+length, len(content))]
				got := make([]byte, length)
				n, err := r.ReadAt(got, int64(off))
				if !bytes.Equal(got[:n], want) || (err == nil) != (n == length) || err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("%d bytes at %d: got %d, error %v", length, off, n, err)
				}
			}
		})
	}
	readers.Wait()
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("read before the beginning")
	}
}

// TestReadsNoMore is what the cache is for: what is not asked for is not read.
func TestReadsNoMore(t *testing.T) {
	file, l := written(t, random(twoLevels))
	counted := &counter{file: bytes.NewReader(file)}
	r, err := Open(counted, l)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(make([]byte, 4096), 10*BlockSize+4096); err != nil {
		t.Fatal(err)
	}
	// The topmost node has two hashes, and the one beneath 1,024.
	if want := int64(2*32 + BlockSize + BlockSize); counted.bytes != want {
		t.Errorf("4 KiB took %d bytes instead of %d", counted.bytes, want)
	}
	counted.bytes = 0
	if _, err := r.ReadAt(make([]byte, 2*BlockSize), 20*BlockSize); err != nil {
		t.Fatal(err)
	}
	if counted.bytes != 2*BlockSize || counted.calls != 4 {
		t.Errorf("two blocks more took %d bytes; %d reads in all", counted.bytes, counted.calls)
	}
}

// TestReadsOnce: pages of a block that are asked for one after the other cost
// the block once.
func TestReadsOnce(t *testing.T) {
	content := random(40 * BlockSize)
	file, l := written(t, content)
	counted := &counter{file: bytes.NewReader(file)}
	r, err := Open(counted, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		reason    string
		off, size int
		want      int64
	}{
		{"nothing of it is there", 10*BlockSize + 4096, 4096, BlockSize},
		{"the block was read", 10*BlockSize + 4096, 4096, 0},
		{"and all of it was checked", 10 * BlockSize, 4096, 0},
		{"its end, and the block that follows", 10*BlockSize + 8192, BlockSize, BlockSize},
		{"which is kept as well", 11*BlockSize + 100, 100, 0},
		{"another block takes its place", (10+keptBlocks)*BlockSize + 1, 1, BlockSize},
		{"so it is read again", 10 * BlockSize, 1, BlockSize},
		{"who takes all of a block needs no more of it", 20 * BlockSize, BlockSize, BlockSize},
		{"so it is not kept", 20 * BlockSize, BlockSize, BlockSize},
	} {
		counted.bytes = 0
		got := make([]byte, step.size)
		if _, err := r.ReadAt(got, int64(step.off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, content[step.off:step.off+step.size]) {
			t.Errorf("%d bytes at %d are others (%s)", step.size, step.off, step.reason)
		}
		if counted.bytes != step.want {
			t.Errorf("%d bytes at %d took %d from the file, want %d: %s", step.size, step.off, counted.bytes, step.want, step.reason)
		}
	}
}

type counter struct {
	file         io.ReaderAt
	bytes, calls int64
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.file.ReadAt(p, off)
	c.bytes += int64(n)
	c.calls++
	return n, err
}

// TestAnyByte changes each byte of a small file in turn.
func TestAnyByte(t *testing.T) {
	file, l := written(t, random(3000))
	for i := range file {
		file[i] ^= 1
		if _, err := readAll(file, l); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d of %d changed: error %v", i, len(file), err)
		}
		file[i] ^= 1
	}
}

func TestTampered(t *testing.T) {
	content := random(twoLevels)
	good, l := written(t, content)
	swap := func(file []byte, a, b, n int) {
		for i := range n {
			file[a+i], file[b+i] = file[b+i], file[a+i]
		}
	}
	for name, tc := range map[string]struct {
		reason string
		change func(file []byte) []byte
	}{
		"FirstBlock":  {"a byte of the content", func(f []byte) []byte { f[0] ^= 0x80; return f }},
		"LastBlock":   {"the short one", func(f []byte) []byte { f[twoLevels-1] ^= 1; return f }},
		"Hash":        {"a hash of a block", func(f []byte) []byte { f[twoLevels+40*32] ^= 1; return f }},
		"TopmostHash": {"a hash of hashes", func(f []byte) []byte { f[len(f)-1] ^= 1; return f }},
		"Moved":       {"a good block at another's place", func(f []byte) []byte { swap(f, 0, BlockSize, BlockSize); return f }},
		"MovedTwice": {"with its hash", func(f []byte) []byte {
			swap(f, 0, BlockSize, BlockSize)
			swap(f, twoLevels, twoLevels+32, 32)
			return f
		}},
		"Cut":          {"the last byte is not there", func(f []byte) []byte { return f[:len(f)-1] }},
		"CutInBlocks":  {"half of the content", func(f []byte) []byte { return f[:len(f)/2] }},
		"Empty":        {"a file with nothing in it", func([]byte) []byte { return nil }},
		"Inserted":     {"everything one further", func(f []byte) []byte { return append([]byte{0}, f...) }},
		"OtherContent": {"a good file of something else", func([]byte) []byte { f, _ := written(t, random(twoLevels-1)); return f }},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readAll(tc.change(bytes.Clone(good)), l); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: error %v", tc.reason, err)
			}
		})
	}
	t.Run("TheRestIsGood", func(t *testing.T) {
		file := bytes.Clone(good)
		file[3*BlockSize] ^= 1
		r, err := Open(bytes.NewReader(file), l)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 8*BlockSize)
		n, err := r.ReadAt(p, 0)
		if n != 3*BlockSize || !errors.Is(err, ErrCorrupt) || !bytes.Equal(p[:n], content[:n]) {
			t.Errorf("%d bytes before the bad block, error %v", n, err)
		}
		if _, err := r.ReadAt(p, 4*BlockSize); err != nil || !bytes.Equal(p, content[4*BlockSize:12*BlockSize]) {
			t.Errorf("behind the bad block: %v", err)
		}
	})
}

func TestLayerThatDoesNotFit(t *testing.T) {
	file, l := written(t, random(twoLevels))
	for name, change := range map[string]func(*Layer){
		"Shorter":  func(l *Layer) { l.Size-- },
		"Longer":   func(l *Layer) { l.Size++ },
		"Empty":    func(l *Layer) { l.Size = 0 },
		"Negative": func(l *Layer) { l.Size = -1 },
		"Huge":     func(l *Layer) { l.Size = MaxSize + 1 },
		"Root":     func(l *Layer) { l.Root[31]++ },
	} {
		t.Run(name, func(t *testing.T) {
			other := l
			change(&other)
			if _, err := readAll(file, other); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestShareFails: an error of the share is not the file's fault.
func TestShareFails(t *testing.T) {
	file, l := written(t, random(twoLevels))
	share := &failing{file: bytes.NewReader(file)}
	r, err := Open(share, l)
	if err != nil {
		t.Fatal(err)
	}
	share.err = errors.New("stale file handle")
	p := make([]byte, 10)
	if _, err := r.ReadAt(p, 0); !errors.Is(err, share.err) || errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	share.err = nil
	if _, err := r.ReadAt(p, 0); err != nil {
		t.Errorf("the share is there again: %v", err)
	}
}

type failing struct {
	file io.ReaderAt
	err  error
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return f.file.ReadAt(p, off)
}

func TestWriteErrors(t *testing.T) {
	broken := errors.New("no more")
	if _, _, err := Write(io.Discard, iotest.ErrReader(broken), key); !errors.Is(err, broken) {
		t.Errorf("the source fails: %v", err)
	}
	for _, room := range []int64{0, BlockSize, FileSize(twoLevels) - 1} {
		if _, _, err := Write(&full{room: room}, bytes.NewReader(random(twoLevels)), key); !errors.Is(err, errFull) {
			t.Errorf("the share is full after %d bytes: %v", room, err)
		}
	}
}

var errFull = errors.New("no space left")

type full struct{ room int64 }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= int64(len(p)); f.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestJSON(t *testing.T) {
	want := Layer{Digest: "sha256:a", DiffID: "sha256:b", Path: "v1/layers/00/00", Size: 5, Root: Sum{0xab}, Key: Key{0xcd}}
	text, err := json.Marshal(want)
	if err != nil || !strings.Contains(string(text), `"root":"ab00`) || !strings.Contains(string(text), `"key":"cd00`) {
		t.Errorf("%s, error %v", text, err)
	}
	var got Layer
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, bad := range []string{`{"root":"ab"}`, `{"key":"` + strings.Repeat("x", 64) + `"}`, `{"key":"` + strings.Repeat("0", 66) + `"}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if text := fmt.Sprintf("%v %+v", want, want); strings.Contains(text, "205") || strings.Contains(text, "cd00") {
		t.Errorf("the key is in a message: %s", text)
	}
}

// FuzzTamper: whatever is done to a file, a Reader returns what was written or
// an error.
func FuzzTamper(f *testing.F) {
	content := random(2*BlockSize + 50)
	good, l := written(f, content)
	f.Add(uint(0), []byte{1}, uint(len(good)))
	f.Add(uint(len(good)-32), []byte{0xff, 0}, uint(len(good)))
	f.Add(uint(0), []byte{}, uint(BlockSize))
	f.Fuzz(func(t *testing.T, at uint, with []byte, length uint) {
		file := bytes.Clone(good)
		for i, b := range with {
			file[(at+uint(i))%uint(len(file))] ^= b
		}
		file = file[:min(length, uint(len(file)))]
		got, err := readAll(file, l)
		switch {
		case bytes.Equal(file, good):
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("a good file: %v", err)
			}
		case !errors.Is(err, ErrCorrupt):
			t.Errorf("a bad file: %v", err)
		case !bytes.HasPrefix(content, got):
			t.Error("read something that was not written")
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	content := random(16 << 20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, _, err := Write(io.Discard, bytes.NewReader(content), key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadAt(b *testing.B) {
	file, l := written(b, random(64<<20))
	for _, size := range []int{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			r, err := Open(bytes.NewReader(file), l)
			if err != nil {
				b.Fatal(err)
			}
			p := make([]byte, size)
			rnd := rand.New(rand.NewPCG(1, 2))
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := r.ReadAt(p, rnd.Int64N(l.Size-int64(size))/4096*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
