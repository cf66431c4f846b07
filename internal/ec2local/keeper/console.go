package keeper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// ConsolePath is the file that the machine's process appends its console to.
func (k *Keeper) ConsolePath(id string) string { return filepath.Join(k.Dir(id), consoleFile) }

// Console returns the end of the machine's console, as [machine.Hypervisor] says.
func (k *Keeper) Console(id string) ([]byte, error) {
	data, err := tail(k.ConsolePath(id), machine.MaxConsole)
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

// trimConsoles keeps the consoles of running machines from filling the disk.
func (k *Keeper) trimConsoles() {
	ticker := time.NewTicker(consoleInterval)
	defer ticker.Stop()
	for {
		select {
		case <-k.closing:
			return
		case <-ticker.C:
		}
		k.mu.Lock()
		var ids []string
		for id := range k.running {
			ids = append(ids, id)
		}
		k.mu.Unlock()
		for _, id := range ids {
			if err := trimConsole(k.ConsolePath(id), consoleLimit); err != nil {
				k.log.Warn("trimming a console", "instance", id, "error", err)
			}
		}
	}
}
