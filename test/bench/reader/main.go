// Command reader is the process of a measured image: it reads a part of what
// lies beside it, as a process does that starts, says how long that took, and
// does nothing until it is ended.
//
//	reader PERCENT
//
// It reads a percentage of the directories below /data/*/small, each file of
// them, and of each file in /data/*/large as much in runs of 256 KiB. Both are
// spread evenly: read-ahead helps within a directory or a run, and not beyond.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// run is how much of a large file is read at a time.
const run = 256 << 10

// result is the line that it writes.
type result struct {
	Files   int     `json:"files"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	began := time.Now()
	r, err := read("/data", os.Args[1:])
	if err == nil {
		r.Seconds = time.Since(began).Seconds()
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		slog.Error("reading a part of the image", "err", err)
		os.Exit(1)
	}
	<-ended
}

func read(root string, args []string) (result, error) {
	var r result
	if len(args) != 1 {
		return r, fmt.Errorf("it takes one percentage, not %q", args)
	}
	percent, err := strconv.Atoi(args[0])
	if err != nil {
		return r, err
	}
	directories, err := filepath.Glob(filepath.Join(root, "*/small/*")) // in order
	if err != nil {
		return r, err
	}
	for i, directory := range directories {
		if !chosen(i, percent) {
			continue
		}
		files, err := os.ReadDir(directory)
		if err != nil {
			return r, err
		}
		for _, f := range files {
			if err := r.file(filepath.Join(directory, f.Name()), 100); err != nil {
				return r, err
			}
		}
	}
	large, err := filepath.Glob(filepath.Join(root, "*/large/*"))
	if err != nil {
		return r, err
	}
	for _, path := range large {
		if err := r.file(path, percent); err != nil {
			return r, err
		}
	}
	return r, nil
}

// file reads a percentage of a file.
func (r *result) file(path string, percent int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r.Files++
	for i, off := 0, int64(0); off < info.Size(); i, off = i+1, off+run {
		if !chosen(i, percent) {
			continue
		}
		// An offset of its own for each run, and pieces as programs read them.
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.NewSectionReader(f, off, run), make([]byte, 64<<10))
		if err != nil {
			return err
		}
		r.Bytes += n
	}
	return nil
}

// chosen are a percentage of all numbers, evenly.
func chosen(i, percent int) bool { return (i+1)*percent/100 > i*percent/100 }
