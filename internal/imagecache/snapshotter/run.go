package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"

	"github.com/elotl/kip/v2/internal/imagecache/fuse"
	"github.com/elotl/kip/v2/internal/imagecache/settings"
	"github.com/elotl/kip/v2/internal/imagecache/source"
)

// Run serves containerd, and the layers to the kernel by way of device, until ctx
// ends. What is mounted stays mounted, and whoever reads it waits for the next
// process.
func Run(ctx context.Context, set settings.Settings, device *os.File, program string, logger *slog.Logger) error {
	kip := NewKip(set.Agent, logger)
	places, err := placesOf(set.Mirrors)
	if err != nil {
		return err
	}
	registry := &Registry{Places: places, Grants: kip}
	from, err := source.New(source.Config{
		Open: source.Directory(set.Share), Fetch: registry.Fetch, Report: kip.Report,
		Dir:      filepath.Join(set.Dir, "fetched"),
		Patience: source.Patience, Again: source.Again, GiveUp: source.GiveUp, Logger: logger,
	})
	if err != nil {
		return err
	}
	files := NewFiles()
	defer files.Close()
	s, err := New(Config{
		Dir: filepath.Join(set.Dir, "snapshots"), Layers: set.Layers, Program: program, Uncached: set.Uncached,
		Grants: kip, Report: kip.Report, Source: from, Files: files, Logger: logger,
	})
	if err != nil {
		return err
	}
	if err := os.Remove(set.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listening for containerd: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(set.Socket), 0o700); err != nil {
		return fmt.Errorf("listening for containerd: %w", err)
	}
	listener, err := net.Listen("unix", set.Socket)
	if err != nil {
		return fmt.Errorf("listening for containerd: %w", err)
	}
	defer listener.Close()
	if err := os.Chmod(set.Socket, 0o600); err != nil {
		return fmt.Errorf("listening for containerd: %w", err)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	server := grpc.NewServer()
	snapshots.RegisterSnapshotsServer(server, s)
	running.Go(func() {
		err := fuse.NewServer(device, files, logger).Serve(ctx)
		if err == nil && ctx.Err() == nil {
			err = errors.New("the layers' file system was unmounted")
		}
		cancel(err)
	})
	running.Go(func() { kip.Send(ctx) })
	running.Go(func() {
		<-ctx.Done()
		server.Stop()
	})
	if err := s.Recover(ctx); err != nil {
		cancel(err)
		return err
	}
	if err := server.Serve(listener); err != nil {
		cancel(fmt.Errorf("serving containerd: %w", err))
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
