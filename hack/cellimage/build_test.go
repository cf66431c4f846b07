package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestSameBytes builds the image of make cell-image once more, elsewhere and later, from the same packages and programs.
func TestSameBytes(t *testing.T) {
	t.Chdir("../..")
	built, err := filepath.Abs(".cache/cell-image")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Glob(filepath.Join(built, "debian-*"))
	if os.Getenv("KIP_VM") != "1" || os.Geteuid() != 0 || err != nil || len(packages) == 0 {
		t.Skip("it runs as root with KIP_VM=1 and after make cell-image: make test-vm")
	}
	again := t.TempDir()
	if err := run(t.Context(), "cp", append([]string{"-a", "--reflink=auto", "-t", again}, packages...)...); err != nil {
		t.Fatal(err)
	}
	if err := build(t.Context(), again, defaultMirror); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{listFile, "cmdline", "initrd", "kernel", "disk"} {
		if first, second := sum(t, filepath.Join(built, name)), sum(t, filepath.Join(again, name)); !bytes.Equal(first, second) {
			t.Errorf("%s is another one: %x, then %x", name, first, second)
		}
	}
}

func sum(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(fmt.Errorf("reading %s: %w", path, err))
	}
	return h.Sum(nil)
}
