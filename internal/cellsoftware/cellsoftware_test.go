package cellsoftware

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
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	agent, tools := t.TempDir(), t.TempDir()
	for _, path := range []string{
		filepath.Join(agent, "kip-cell"), filepath.Join(agent, "kip-snapshotter"), filepath.Join(tools, "kube-proxy"), filepath.Join(tools, "loopback"),
		filepath.Join(tools, "portmap"), filepath.Join(tools, "ptp"), filepath.Join(tools, "static"),
	} {
		if err := os.WriteFile(path, []byte("program "+filepath.Base(path)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var first, second bytes.Buffer
	if err := Write(&first, agent, tools); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(tools, "ptp"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := Write(&second, agent, tools); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the same programs make another archive: %v", err)
	}
	packed, err := gzip.NewReader(&first)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for archive := tar.NewReader(packed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil || header.Mode != 0o755 {
			t.Errorf("%s has mode %o, %v", header.Name, header.Mode, err)
		}
		got[header.Name] = string(content)
	}
	want := map[string]string{}
	for _, name := range []string{"bin/kip-cell", "bin/kip-snapshotter", "bin/kube-proxy", "cni/bin/loopback", "cni/bin/portmap", "cni/bin/ptp", "cni/bin/static"} {
		want[name] = "program " + filepath.Base(name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the archive (-want +got):\n%s", diff)
	}
	if err := os.Remove(filepath.Join(tools, "static")); err != nil {
		t.Fatal(err)
	}
	if err := Write(io.Discard, agent, tools); err == nil || !strings.Contains(err.Error(), "static") {
		t.Errorf("without a program: %v", err)
	}
}
