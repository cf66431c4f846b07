// Command kip-snapshotter is containerd's snapshotter in a cell that has an image
// cache. The agent runs it, with the FUSE file system that it serves as
// descriptor 3, and runs it again when it ends: package snapshotter.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/imagecache/settings"
	"github.com/elotl/kip/v2/internal/imagecache/snapshotter"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 3 && args[0] == snapshotter.MountCommand:
		return snapshotter.MountLayer(args[1], args[2])
	case len(args) != 1:
		return fmt.Errorf("kip-snapshotter is run by kip-cell, with a file of settings")
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	var set settings.Settings
	if err := json.Unmarshal(data, &set); err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	// What is mounted waits for it; a program that is started must not inherit
	// it.
	unix.CloseOnExec(settings.LayersDescriptor)
	device := os.NewFile(settings.LayersDescriptor, "/dev/fuse")
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return snapshotter.Run(ctx, set, device, program, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}
