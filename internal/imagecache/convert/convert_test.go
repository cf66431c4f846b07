package convert

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
)

// entryOf is an entry of an archive.
type entryOf struct {
	tar.Header
	content string
}

func file(name, content string) entryOf {
	return entryOf{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func directory(name string) entryOf {
	return entryOf{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}

func link(name, target string) entryOf {
	return entryOf{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func symlink(name, target string) entryOf {
	return entryOf{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func archive(tb testing.TB, entries ...entryOf) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.content))
		h.Format = tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_700_000_000, 123_456_789)
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// converted is the path of an archive's file system.
func converted(tb testing.TB, from io.Reader) (string, Result, error) {
	tb.Helper()
	scratch := tb.TempDir()
	f, err := os.Create(filepath.Join(tb.TempDir(), "layer.erofs"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	result, err := Convert(tb.Context(), f, from, scratch)
	if left, dirErr := os.ReadDir(scratch); dirErr != nil || len(left) > 0 {
		tb.Errorf("left behind: %v, error %v", left, dirErr)
	}
	return f.Name(), result, err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func gzipped(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(tb testing.TB, b []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// a bit of everything, for tests that are not about what is in it.
func everything() []entryOf {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return string(b)
	}
	all := []entryOf{
		directory("."), directory("bin"), file("bin/tool", text(70_000)), link("bin/same", "bin/tool"), symlink("sbin", "bin"),
		directory("etc"), file("etc/.wh.gone", ""), directory("etc/opaque"), file("etc/opaque/.wh..wh..opq", ""),
		directory("many"),
	}
	for i := range 1000 {
		all = append(all, file(fmt.Sprintf("many/%d", i), text(i)))
	}
	return all
}

// goldenDigest changes when the form of file systems does. Raise Version then.
const goldenDigest = "sha256:ede94ef26b37d6d6e7d83a3029bf5130fae112c89c23379a8369d0cbc3475dbd"

func TestSameArchiveSameFileSystem(t *testing.T) {
	plain := archive(t, everything()...)
	for name, from := range map[string]struct {
		reader io.Reader
		digest string
	}{
		"Plain":      {bytes.NewReader(plain), digest(plain)},
		"Slowly":     {iotest.HalfReader(bytes.NewReader(plain)), digest(plain)},
		"Gzip":       {bytes.NewReader(gzipped(t, plain)), digest(gzipped(t, plain))},
		"TwoMembers": {bytes.NewReader(append(gzipped(t, plain[:5000]), gzipped(t, plain[5000:])...)), digest(append(gzipped(t, plain[:5000]), gzipped(t, plain[5000:])...))},
		"Zstandard":  {bytes.NewReader(zstandard(t, plain)), digest(zstandard(t, plain))},
	} {
		t.Run(name, func(t *testing.T) {
			path, result, err := converted(t, from.reader)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if digest(got) != goldenDigest {
				t.Errorf("the file system's digest is %s", digest(got))
			}
			want := Result{Digest: from.digest, DiffID: digest(plain), Size: int64(len(got))}
			if result != want || result.Size%blockSize != 0 {
				t.Errorf("got %+v, want %+v", result, want)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	long := strings.Repeat("x", 256)
	header := func(h tar.Header) entryOf { return entryOf{h, ""} }
	for name, tc := range map[string]struct {
		reason  string
		entries []entryOf
	}{
		"HardLinkOutside":     {"to a file of a layer beneath", []entryOf{link("a", "b")}},
		"HardLinkToDirectory": {"nothing unpacks it", []entryOf{directory("b"), link("a", "b")}},
		"UnderAFile":          {"a file is no directory", []entryOf{file("a", ""), file("a/b", "")}},
		"Loop":                {"symbolic links that lead nowhere", []entryOf{symlink("a", "b"), symlink("b", "a"), file("a/c", "")}},
		"LongName":            {"the kernel's limit", []entryOf{file(long, "")}},
		"LongDirectory":       {"implied ones too", []entryOf{file(long+"/a", "")}},
		"LongPath":            {"the kernel's limit", []entryOf{file(strings.Repeat("a/", 2100)+"b", "")}},
		"LongTarget":          {"the kernel's limit", []entryOf{symlink("a", strings.Repeat("x", 4096))}},
		"WhiteoutOfNothing":   {"a name that is none", []entryOf{file("a/.wh.", "")}},
		"WhiteoutOfParent":    {"not above", []entryOf{file("a/.wh...", "")}},
		"RootIsAFile":         {"nor is the root", []entryOf{symlink("./", "a")}},
		"Device":              {"numbers of no device", []entryOf{header(tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 5000})}},
		"Owner":               {"no user is nobody's number", []entryOf{header(tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 1<<32 - 1})}},
		"Attribute":           {"larger than the form has room for", []entryOf{header(tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 65536)}})}},
		"Attributes": {"all together", []entryOf{header(tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{
			"SCHILY.xattr.user.a": strings.Repeat("x", 60000), "SCHILY.xattr.user.b": strings.Repeat("x", 60000), "SCHILY.xattr.user.c": strings.Repeat("x", 60000),
			"SCHILY.xattr.user.d": strings.Repeat("x", 60000), "SCHILY.xattr.user.e": strings.Repeat("x", 60000),
		}})}},
		"Type": {"of an entry that nobody knows", []entryOf{header(tar.Header{Typeflag: 'Q', Name: "a"})}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := converted(t, bytes.NewReader(archive(t, tc.entries...))); !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: error %v", tc.reason, err)
			}
		})
	}
}

// TestBombs: what an archive may make of little is bounded.
func TestBombs(t *testing.T) {
	small := limits{content: 1 << 20, files: 10, kept: 1000}
	many := make([]entryOf, 11)
	for i := range many {
		many[i] = directory(fmt.Sprint(i))
	}
	var sparse bytes.Buffer
	// A header of an old GNU sparse file of 2^40 bytes with nothing in it.
	h := make([]byte, 512)
	copy(h, "hole")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[483:], "20000000000\x00") // its real size, in octal: 2 GiB
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	sparse.Write(h)
	sparse.Write(make([]byte, 1024))

	for name, from := range map[string][]byte{
		"Gzip":        gzipped(t, archive(t, file("zeros", string(make([]byte, 2<<20))))),
		"BehindItAll": gzipped(t, append(archive(t, file("a", "")), make([]byte, 2<<20)...)),
		"Sparse":      sparse.Bytes(),
		"Files":       archive(t, many...),
		"Implied":     archive(t, file(strings.Repeat("a/", 20)+"b", "")),
		"Names":       archive(t, directory(strings.Repeat("a/", 300)+"b"), directory(strings.Repeat("a/", 300)+"c")),
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := convert(t.Context(), f, bytes.NewReader(from), t.TempDir(), small); !errors.Is(err, ErrUnsupported) {
				t.Errorf("error %v", err)
			}
			if info, err := f.Stat(); err != nil || info.Size() > 2<<20 {
				t.Errorf("%d bytes were written", info.Size())
			}
		})
	}
}

// TestBrokenDownload: what is not there yet may come, so it is not unsupported.
func TestBrokenDownload(t *testing.T) {
	whole := gzipped(t, archive(t, everything()...))
	broken := errors.New("connection reset")
	for name, from := range map[string]io.Reader{
		"Cut":    bytes.NewReader(whole[:len(whole)/2]),
		"CutTar": bytes.NewReader(archive(t, everything()...)[:50_000]),
		"Error":  io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(broken)),
		"AtOnce": iotest.ErrReader(broken),
	} {
		if _, _, err := converted(t, from); err == nil || errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Convert(ctx, f, bytes.NewReader(whole), t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: error %v", err)
	}
}

func TestImplied(t *testing.T) {
	for name, tc := range map[string]struct {
		entries []entryOf
		want    string
	}{
		"None":     {[]entryOf{directory("a"), file("a/b", "")}, ""},
		"Later":    {[]entryOf{file("a/b", ""), directory("a")}, ""},
		"Root":     {[]entryOf{file("b", "")}, ""},
		"One":      {[]entryOf{directory("a"), file("a/b/c", ""), file("z/c", "")}, "/a/b"},
		"Whiteout": {[]entryOf{file("a/.wh.b", "")}, "/a"},
	} {
		_, result, err := converted(t, bytes.NewReader(archive(t, tc.entries...)))
		if err != nil || result.Implied != tc.want {
			t.Errorf("%s: %q instead of %q, error %v", name, result.Implied, tc.want, err)
		}
	}
}

// FuzzConvert: no archive does more than fail.
func FuzzConvert(f *testing.F) {
	f.Add(archive(f, everything()[:12]...))
	f.Add(gzipped(f, archive(f, file("a", "b"))))
	f.Add(zstandard(f, archive(f, symlink("a", "b"), file("a/c", ""))))
	f.Fuzz(func(t *testing.T, from []byte) {
		out, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		result, err := convert(t.Context(), out, bytes.NewReader(from), t.TempDir(), limits{content: 1 << 20, files: 100, kept: 1 << 16})
		if err != nil {
			return
		}
		if info, err := out.Stat(); err != nil || info.Size() != result.Size || result.Digest != digest(from) {
			t.Errorf("%+v, but %d bytes", result, info.Size())
		}
	})
}

func BenchmarkConvert(b *testing.B) {
	from := archive(b, append(everything(), file("large", strings.Repeat("not only zeros", 2<<20)))...)
	b.SetBytes(int64(len(from)))
	for b.Loop() {
		if _, _, err := converted(b, bytes.NewReader(from)); err != nil {
			b.Fatal(err)
		}
	}
}
