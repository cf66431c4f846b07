package convert

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mountLayer mounts an archive's file system with this machine's kernel.
func mountLayer(t *testing.T, from []byte) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root mounts file systems")
	}
	path, _, err := converted(t, bytes.NewReader(from))
	if err != nil {
		t.Fatal(err)
	}
	return mount(t, path, "erofs", unix.MS_RDONLY, "")
}

func mount(t *testing.T, what, kind string, flags uintptr, options string) string {
	t.Helper()
	at := t.TempDir()
	err := unix.Mount(what, at, kind, flags, options)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.EPERM) {
		t.Skipf("this machine does not mount %s from a file: %v", kind, err)
	}
	if err != nil {
		t.Fatalf("mounting %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("unmounting %s: %v", kind, err)
		}
	})
	return at
}

// what a file is, all that a program may see of it but the content.
type seen struct {
	Mode             string
	UID, GID         uint32
	Device           uint64
	Size             int64
	Modified         time.Time
	Links            uint64
	First            string // of the names that are the same file
	Target, Contents string
	Xattrs           map[string]string
}

func look(t *testing.T, root string) map[string]seen {
	t.Helper()
	found := map[string]seen{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("no stat")
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s := seen{
			Mode: info.Mode().String(), UID: st.Uid, GID: st.Gid, Device: st.Rdev, Modified: info.ModTime().UTC(), Xattrs: xattrsOf(t, path),
		}
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s.Size, s.Contents = st.Size, digest(content)
		case info.Mode()&fs.ModeSymlink != 0:
			if s.Target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if !info.IsDir() {
			s.Links = st.Nlink
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			s.First = first[st.Ino]
		}
		found[name] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func xattrsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		t.Fatalf("attributes of %s: %v", path, err)
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatalf("attribute %s of %s: %v", name, path, err)
		}
		found[name] = string(value[:n])
	}
	return found
}

// TestMountIsWhatTarUnpacks compares with what tar makes of the same archive.
func TestMountIsWhatTarUnpacks(t *testing.T) {
	const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	const acl = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x05\x00\x00\x00" +      // user::rw-, user:5:r--
		"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff" // group::r--, mask::r--, other::r--
	with := func(e entryOf, change func(*tar.Header)) entryOf { change(&e.Header); return e }
	records := func(r ...string) func(*tar.Header) {
		return func(h *tar.Header) {
			h.PAXRecords = map[string]string{}
			for i := 0; i < len(r); i += 2 {
				h.PAXRecords["SCHILY.xattr."+r[i]] = r[i+1]
			}
		}
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return string(b)
	}
	entries := []entryOf{
		with(directory("."), func(h *tar.Header) { h.Mode = 0o711; h.Gid = 7 }),
		directory("bin"),
		with(file("bin/su", text(5000)), func(h *tar.Header) { h.Mode = 0o4755 }),
		with(file("bin/ping", text(5000)), records("security.capability", capability)),
		link("bin/ping6", "bin/ping"), link("bin/0ping", "./bin/ping6"),
		with(directory("tmp"), func(h *tar.Header) { h.Mode = 0o1777 }),
		with(file("tmp/owned", "x"), func(h *tar.Header) { h.Uid, h.Gid = 4_000_000_000, 70_000 }),
		with(file("tmp/old", "x"), func(h *tar.Header) { h.ModTime = time.Unix(-1000, 5) }),
		with(file("tmp/future", "x"), func(h *tar.Header) { h.ModTime = time.Unix(1<<33, 999_999_999) }),
		symlink("lib", "usr/lib"), symlink("broken", "/nowhere/at/all"), symlink("long", strings.Repeat("../", 1000)+"x"),
		symlink("longest", strings.Repeat("y", 4095)), link("symlink-too", "lib"),
		directory("dev"),
		with(entryOf{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}, func(*tar.Header) {}),
		with(entryOf{tar.Header{Typeflag: tar.TypeBlock, Name: "dev/far", Mode: 0o600, Devmajor: 259, Devminor: 70_000}, ""}, func(*tar.Header) {}),
		{tar.Header{Typeflag: tar.TypeFifo, Name: "dev/pipe", Mode: 0o600}, ""},
		directory("names"),
		file("names/"+strings.Repeat("n", 255), "long"), file("names/with\nnew line", ""), file("names/ümläut", ""), file("names/\xff\xfe not text", ""),
		file("names/..hidden", ""), file("names/-", ""), file("names/ ", ""),
		directory("empty"),
		directory("attributes"),
		with(directory("attributes/dir"), records("user.dir", "yes", "trusted.b", "")),
		with(file("attributes/many", text(3000)), records("user.a", "1", "user.b", text(3000), "trusted.t", "x", "security.s", text(200), "user."+strings.Repeat("n", 250), "v")),
		with(file("attributes/inline", "short"), records("user.a", "1")),
		with(file("attributes/acl", ""), records("system.posix_acl_access", acl)),
		directory("twice"), file("twice/file", "first"), file("twice/file", "second"), symlink("twice/kind", "x"), directory("twice/kind"), file("twice/kind/inside", ""),
		with(directory("twice"), func(h *tar.Header) { h.Mode = 0o700 }),
		directory("holes"),
		file("holes/only", string(make([]byte, 1<<20))),
		file("holes/first", string(make([]byte, 200_000))+text(70_000)),
		file("holes/last", text(100_000)+string(make([]byte, 300_001))),
		file("holes/between", text(65_536)+string(make([]byte, 65_536))+text(10)),
		file("holes/small", string(make([]byte, 5000))),
		directory("sizes"),
	}
	for _, n := range []int{1, 31, 32, 2047, 2048, 4095, 4096, 4097, 8191, 65_535, 65_536, 65_537, 3_000_000} {
		entries = append(entries, file(fmt.Sprintf("sizes/%d", n), text(n)))
	}
	entries = append(entries, directory("large")) // whose names fill many blocks
	for i := range 3000 {
		entries = append(entries, file(fmt.Sprintf("large/%d-%s", i, strings.Repeat("x", i%200)), text(rnd.IntN(3000))))
	}
	deep := "deep"
	for range 100 {
		entries = append(entries, directory(deep))
		deep += "/d"
	}
	from := archive(t, entries...)
	at := mountLayer(t, from)

	unpacked := t.TempDir()
	tarball := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(tarball, from, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "--extract", "--file", tarball, "--directory", unpacked, "--numeric-owner", "--same-owner",
		"--preserve-permissions", "--xattrs", "--xattrs-include=*").CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	// tar has a record of its own for access lists, and leaves this one alone.
	if err := unix.Setxattr(filepath.Join(unpacked, "attributes/acl"), "system.posix_acl_access", []byte(acl), 0); err != nil {
		t.Fatal(err)
	}
	want, got := look(t, unpacked), look(t, at)
	if len(want) < len(entries)-10 {
		t.Fatalf("tar unpacked %d files of %d", len(want), len(entries))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-tar +mounted:\n%s", diff)
	}
}

// TestOverlay puts layers on each other as a cell does.
func TestOverlay(t *testing.T) {
	lower := mountLayer(t, archive(t,
		directory("keep"), file("keep/a", "lower"), file("keep/b", "lower"),
		directory("gone"), file("gone/a", "lower"), file("removed", "lower"), symlink("link", "removed"),
		directory("emptied"), file("emptied/a", "lower"), directory("emptied/sub"),
		directory("again"), file("again/a", "lower"),
		directory("again-later"), file("again-later/a", "lower"), file("changed", "lower"),
	))
	upper := mountLayer(t, archive(t,
		directory("keep"), file("keep/.wh.b", ""), file("keep/c", "upper"),
		file(".wh.gone", ""), file(".wh.removed", ""), file(".wh.never-there", ""),
		directory("emptied"), file("emptied/.wh..wh..opq", ""), file("emptied/b", "upper"),
		file(".wh.again", ""), directory("again"), file("again/b", "upper"),
		directory("again-later"), file("again-later/b", "upper"), file(".wh.again-later", ""),
		file("changed", "upper"), file(".wh.changed", ""),
		directory(".wh..wh.plnk"), file(".wh..wh.aufs", ""),
		// Nobody but the whiteout may say that a directory is opaque, or is
		// another.
		entryOf{tar.Header{Typeflag: tar.TypeDir, Name: "keep/", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}}, ""},
	))
	at := mount(t, "overlay", "overlay", unix.MS_RDONLY, "lowerdir="+upper+":"+lower)
	var got []string
	for name, s := range look(t, at) {
		if strings.HasPrefix(s.Mode, "-") {
			content, err := os.ReadFile(filepath.Join(at, name))
			if err != nil {
				t.Fatal(err)
			}
			name += "=" + string(content)
		}
		got = append(got, name)
	}
	slices.Sort(got)
	want := []string{
		".", "again", "again-later", "again-later/b=upper", "again/b=upper", "changed=upper",
		"emptied", "emptied/b=upper", "keep", "keep/a=lower", "keep/c=upper", "link",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestPathsThroughLinks: unpacking follows links of the layer itself, and never
// out of it.
func TestPathsThroughLinks(t *testing.T) {
	at := mountLayer(t, archive(t,
		directory("usr"), directory("usr/lib"), symlink("lib", "/usr/lib"), file("lib/a", "x"),
		symlink("up", "../../../usr"), file("up/b", "x"), file("../../outside", "x"), symlink("later", "made"), file("later/c", "x"),
		directory("usr/x"), symlink("usr/x/back", ".."), file("usr/x/back/d", "x"), link("hard", "/lib/a"),
	))
	var got []string
	for name := range look(t, at) {
		got = append(got, name)
	}
	slices.Sort(got)
	want := []string{".", "hard", "later", "lib", "made", "made/c", "outside", "up", "usr", "usr/b", "usr/d", "usr/lib", "usr/lib/a", "usr/x", "usr/x/back"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestHugeSparseFile takes little room.
func TestHugeSparseFile(t *testing.T) {
	from := gzipped(t, archive(t, file("lastlog", string(make([]byte, 300<<20))+"end")))
	at := mountLayer(t, from)
	f, err := os.Open(filepath.Join(at, "lastlog"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, 300<<20-7); n != 10 || err != nil || string(p) != "\x00\x00\x00\x00\x00\x00\x00end" {
		t.Errorf("its end: %q, %v", p[:n], err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil || int64(st.Blocks)*st.Bsize > 1<<20 {
		t.Errorf("takes %d blocks of %d bytes, error %v", st.Blocks, st.Bsize, err)
	}
}
