// Package cellsoftware packs what a stock machine image lacks of a cell: the agent, the snapshotter, kube-proxy and the CNI
// plugins. An
// instance fetches the archive and unpacks it to /opt/kip (package userdata has the script).
package cellsoftware

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// Write writes the archive, a gzipped tar file. Its programs are in two directories: agent has Kip's own, tools the rest.
// The same programs make the same bytes, so that whoever builds them can tell whether an archive is theirs.
func Write(w io.Writer, agent, tools string) error {
	packed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("packing the software of cells: %w", err)
	}
	archive := tar.NewWriter(packed)
	for _, f := range []struct{ name, source string }{
		{"bin/kip-cell", agent}, {"bin/kip-snapshotter", agent}, {"bin/kube-proxy", tools},
		{"cni/bin/loopback", tools}, {"cni/bin/portmap", tools}, {"cni/bin/ptp", tools}, {"cni/bin/static", tools},
	} {
		if err := add(archive, f.name, filepath.Join(f.source, path.Base(f.name))); err != nil {
			return fmt.Errorf("packing the software of cells: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("packing the software of cells: %w", err)
	}
	if err := packed.Close(); err != nil {
		return fmt.Errorf("packing the software of cells: %w", err)
	}
	return nil
}

func add(archive *tar.Writer, name, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// Nothing of who built it when.
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: info.Size(), Format: tar.FormatUSTAR}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}
