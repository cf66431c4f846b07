package localcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	inotifyLimit = "/proc/sys/fs/inotify/max_user_instances"
	// wantedInotify: kubelet, containerd and shims of a cell hold about seven
	// inotify instances, all of them root's. The kernel's default of 128 ends
	// at some fifteen cells.
	wantedInotify = 8192
)

// raiseInotify raises the machine's limit where it is too low and writes down
// what it was.
func (c *Cluster) raiseInotify() error {
	now, err := readInotify()
	if err != nil || now >= wantedInotify {
		return err
	}
	// Before the effect: an interrupted Up must not forget the old value.
	if err := writeFile(c.path("inotify"), []byte(strconv.Itoa(now)), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(inotifyLimit, []byte(strconv.Itoa(wantedInotify)), 0); err != nil {
		return fmt.Errorf("raising %s from %d: more than about %d cells will not start: %w", inotifyLimit, now, now/8, err)
	}
	return nil
}

// restoreInotify sets the limit back, unless another cluster still needs it.
func (c *Cluster) restoreInotify() error {
	old, err := os.ReadFile(c.path("inotify"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	others, err := filepath.Glob("/run/netns/kip-*-vpc")
	if err != nil || len(others) > 0 {
		return err
	}
	return os.WriteFile(inotifyLimit, old, 0)
}

func readInotify() (int, error) {
	data, err := os.ReadFile(inotifyLimit)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
