package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// Console implements machine.Hypervisor.
func (h *Hypervisor) Console(id string) ([]byte, error) {
	data, err := tail(filepath.Join(h.dir(id), consoleFile), machine.MaxConsole)
	if err != nil {
		return nil, fmt.Errorf("reading the console of %s: %w", id, err)
	}
	return data, nil
}

// tail returns the last limit bytes of a file that may be growing.
func tail(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	data := make([]byte, min(size, limit))
	n, err := f.ReadAt(data, size-int64(len(data)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data[:n], nil
}

// trimConsole cuts a console that has grown past limit down to its last machine.MaxConsole bytes. Init writes to the end
// of the file, wherever that is; what it writes during the cut may be lost.
func trimConsole(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() <= limit {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := tail(path, machine.MaxConsole)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}
