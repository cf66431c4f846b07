package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/elotl/kip/v2/internal/ociimage"
)

// What is in a measured image.
const (
	imageLayers = 4
	// smallShare is how much of an image small files are, in percent.
	smallShare    = 25
	filesOfSmall  = 16 // in each directory
	leastSmall    = 4 << 10
	differSmall   = 24 << 10 // so 16 KiB on average
	mostLarge     = 32 << 20
	filePiece     = 4 << 10
	readerProgram = "reader"
)

// pushImage makes an image with so many megabytes of files, of which its process
// reads a percentage, and pushes it under several names.
func (b *bench) pushImage(ctx context.Context, megabytes, percent int, names ...string) error {
	dir, err := os.MkdirTemp(b.Dir, "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, readerProgram)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "./test/bench/"+readerProgram)
	build.Dir, build.Env = b.Root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", readerProgram, err, out)
	}
	image, err := ociimage.Build(ociimage.Spec{
		Files: map[string]string{"/" + readerProgram: program}, Entrypoint: []string{"/" + readerProgram}, Cmd: []string{fmt.Sprint(percent)},
	})
	if err != nil {
		return err
	}
	for n := range imageLayers {
		path := filepath.Join(dir, fmt.Sprintf("layer-%d.tar.gz", n))
		if err := writeLayer(path, n, int64(megabytes)*1e6/imageLayers); err != nil {
			return fmt.Errorf("making layer %d: %w", n, err)
		}
		layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return fmt.Errorf("making layer %d: %w", n, err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := b.Push(ctx, image, name); err != nil {
			return err
		}
	}
	return nil
}

// writeLayer writes a layer's archive: directories of small files, and a few
// large ones. The same number and size make the same bytes.
func writeLayer(path string, number int, size int64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packed, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	l := layerWriter{tar.NewWriter(packed), newFiller(uint64(number))}
	top := fmt.Sprintf("data/%02d", number)
	for _, dir := range []string{"data", top, top + "/small", top + "/large"} {
		if err := l.directory(dir); err != nil {
			return err
		}
	}
	left := size * smallShare / 100
	for d := 0; left > 0; d++ {
		dir := fmt.Sprintf("%s/small/%05d", top, d)
		if err := l.directory(dir); err != nil {
			return err
		}
		for i := 0; i < filesOfSmall && left > 0; i++ {
			n := min(left, leastSmall+int64(d*filesOfSmall+i)*7919%differSmall)
			if err := l.file(fmt.Sprintf("%s/%02d", dir, i), n); err != nil {
				return err
			}
			left -= n
		}
	}
	left = size - size*smallShare/100
	for i := 0; left > 0; i++ {
		n := min(left, mostLarge)
		if err := l.file(fmt.Sprintf("%s/large/%03d", top, i), n); err != nil {
			return err
		}
		left -= n
	}
	return errors.Join(l.tar.Close(), packed.Close())
}

type layerWriter struct {
	tar     *tar.Writer
	content io.Reader
}

func (l layerWriter) directory(name string) error {
	return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
}

func (l layerWriter) file(name string, size int64) error {
	if err := l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.CopyN(l.tar, l.content, size)
	return err
}

// filler is content that can be compressed to half its size, as that of images
// usually can: pieces of noise and pieces of text in turn.
type filler struct {
	noise *rand.ChaCha8
	text  []byte
	piece []byte
	turn  int
}

func newFiller(number uint64) *filler {
	var seed [32]byte
	seed[0] = byte(number)
	return &filler{noise: rand.NewChaCha8(seed), text: []byte(strings.Repeat("a line of text as others are\n", filePiece/8))[:filePiece]}
}

func (f *filler) Read(p []byte) (int, error) {
	if len(f.piece) == 0 {
		f.turn++
		f.piece = bytes.Clone(f.text)
		if f.turn%2 == 0 {
			_, _ = f.noise.Read(f.piece) // never fails
		}
	}
	n := copy(p, f.piece)
	f.piece = f.piece[n:]
	return n, nil
}
