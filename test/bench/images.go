package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// machineImage is a machine image that is like a cell's but for what is named.
type machineImage struct {
	name string
	// build are programs of this directory, by their path in the image.
	build map[string]string
	// leaveOut are programs of the cell's image that this one lacks.
	leaveOut []string
}

// makeImage makes an image out of the one that cells have.
func (b *bench) makeImage(ctx context.Context, image machineImage) error {
	images := filepath.Join(b.Dir, "images")
	cells, err := filepath.Glob(filepath.Join(images, "kip-cell-*", "rootfs", "opt"))
	if err != nil || len(cells) != 1 {
		return errors.Join(fmt.Errorf("there are %d images of cells in %s, not one", len(cells), images), err)
	}
	dir := filepath.Join(images, image.name)
	root := filepath.Join(dir, "rootfs")
	if err := os.CopyFS(filepath.Join(root, "opt"), os.DirFS(cells[0])); err != nil {
		return fmt.Errorf("making image %s: %w", image.name, err)
	}
	for _, path := range image.leaveOut {
		if err := os.Remove(filepath.Join(root, path)); err != nil {
			return fmt.Errorf("making image %s: %w", image.name, err)
		}
	}
	for path, source := range image.build {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(root, path), "./test/bench/"+source)
		build.Dir, build.Env = b.Root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("making image %s: building %s: %w\n%s", image.name, source, err, out)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "sbin"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/opt/kip/bin/kip-cell", filepath.Join(root, "sbin", "init")); err != nil {
		return err
	}
	description, err := json.Marshal(map[string]any{
		"name": image.name, "description": "for a benchmark", "creationDate": time.Now().UTC().Format(time.RFC3339),
	})
	if err != nil {
		return err
	}
	// Last: with it the image is complete.
	return os.WriteFile(filepath.Join(dir, "image.json"), description, 0o600)
}
