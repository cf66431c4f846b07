package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// modulesDir holds the kernel's modules that are needed before the root file system is there. The files of the other names
// list them, one a line, each after those that it needs and that are not in the first list.
const (
	modulesDir     = "/modules"
	networkModules = modulesDir + "/network"
	otherModules   = modulesDir + "/others"
)

// loadModules loads those of a list. A module whose hardware is not there says so, or waits for it; both are fine.
func loadModules(list string) error {
	order, err := os.Open(list)
	if err != nil {
		return fmt.Errorf("loading modules: %w", err)
	}
	defer order.Close()
	lines := bufio.NewScanner(order)
	for lines.Scan() {
		if err := loadModule(filepath.Join(modulesDir, lines.Text())); err != nil {
			return fmt.Errorf("loading module %s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
