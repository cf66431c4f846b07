package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// stampName is the file beside a program's binaries that holds its fingerprint.
// It is written last, so a folder that has it is complete.
const stampName = ".fingerprint"

// A builder builds programs of one checkout.
type builder struct {
	tools    string // the folder with the modules
	cache    string // the folder with what is built
	programs []program
	out      io.Writer
}

func newBuilder(root string, programs []program, out io.Writer) (*builder, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("finding the checkout: %w", err)
	}
	return &builder{
		tools:    filepath.Join(root, "tools"),
		cache:    filepath.Join(root, ".cache", "tools"),
		programs: programs,
		out:      out,
	}, nil
}

// A target is a program at its pinned version.
type target struct {
	program
	version     string
	moduleDir   string
	dir         string // where its binaries are, or will be
	fingerprint string
}

func (b *builder) target(p program) (target, error) {
	t := target{program: p, moduleDir: filepath.Join(b.tools, p.module)}
	var err error
	if t.version, err = requiredVersion(filepath.Join(t.moduleDir, "go.mod"), p.source); err != nil {
		return target{}, err
	}
	if t.fingerprint, err = fingerprint(p, t.moduleDir, t.version); err != nil {
		return target{}, err
	}
	t.dir = filepath.Join(b.cache, p.name, t.version)
	return t, nil
}

// built tells whether t's folder holds exactly what a build would make.
func (t target) built() bool {
	content, err := os.ReadFile(filepath.Join(t.dir, stampName))
	return err == nil && string(content) == t.fingerprint
}

// linked tells whether every binary of t is linked from bin.
func (b *builder) linked(t target) bool {
	for _, name := range t.binaries() {
		if link, err := os.Readlink(filepath.Join(b.cache, "bin", name)); err != nil || link != t.link(name) {
			return false
		}
	}
	return true
}

// link is where the link to the binary called name points: relative, so that
// the cache can be mounted elsewhere as a whole.
func (t target) link(name string) string {
	return filepath.Join("..", t.name, t.version, name)
}

// missing returns the targets of programs that are not built or not linked.
func (b *builder) missing(programs []program) ([]target, error) {
	var missing []target
	for _, p := range programs {
		t, err := b.target(p)
		if err != nil {
			return nil, err
		}
		if !t.built() || !b.linked(t) {
			missing = append(missing, t)
		}
	}
	return missing, nil
}

// build makes sure that all programs that names stand for are built and linked.
// It does nothing, and takes no lock, when they are.
func (b *builder) build(ctx context.Context, names []string) error {
	chosen, err := choose(b.programs, names)
	if err != nil {
		return err
	}
	if missing, err := b.missing(chosen); err != nil || len(missing) == 0 {
		return err
	}
	if err := os.MkdirAll(filepath.Join(b.cache, "bin"), 0o755); err != nil {
		return fmt.Errorf("making the cache: %w", err)
	}
	lock, err := acquire(ctx, filepath.Join(b.cache, ".lock"), b.out)
	if err != nil {
		return err
	}
	defer lock.Close()

	// Whoever held the lock may have built what was missing.
	missing, err := b.missing(chosen)
	if err != nil {
		return err
	}
	var todo []target
	for _, t := range missing {
		if !t.built() {
			todo = append(todo, t)
		}
	}
	if len(todo) > 0 {
		if err := b.compile(ctx, todo, lock); err != nil {
			return err
		}
	}
	for _, t := range missing {
		if err := b.relink(t); err != nil {
			return err
		}
	}
	return nil
}

// compile builds todo in order. Programs built before an error stay built.
func (b *builder) compile(ctx context.Context, todo []target, lock *os.File) error {
	start := time.Now()
	for _, t := range todo {
		if t.cgo {
			if err := installDeps(ctx, []string{"build"}, b.out); err != nil {
				return fmt.Errorf("preparing to build %s: %w", t.name, err)
			}
			break
		}
	}
	plan, err := b.survey(ctx, todo)
	if err != nil {
		return err
	}
	progress := newProgress(b.out, todo, plan)
	for _, t := range todo {
		if err := b.compileOne(ctx, t, progress, lock); err != nil {
			return err
		}
		if err := b.relink(t); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.out, "Programs built: %d, in %s.\n", len(todo), roughly(time.Since(start)))
	return nil
}

// relink makes bin's links point to t, each by one rename.
func (b *builder) relink(t target) error {
	for _, name := range t.binaries() {
		link := filepath.Join(b.cache, "bin", name)
		fresh := link + ".new"
		if err := os.RemoveAll(fresh); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
		if err := os.Symlink(t.link(name), fresh); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
		if err := os.Rename(fresh, link); err != nil {
			return fmt.Errorf("linking %s: %w", name, err)
		}
	}
	return nil
}

// list prints every program with its state.
func (b *builder) list(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROGRAM\tVERSION\tGROUP\tBUILT\tSIZE\tBINARIES")
	for _, p := range b.programs {
		t, err := b.target(p)
		if err != nil {
			return err
		}
		state, size := "no", "-"
		if t.built() {
			state, size = "yes", fmt.Sprintf("%d MB", t.size()/1e6)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", t.name, t.version, t.group, state, size, strings.Join(t.binaries(), " "))
	}
	return table.Flush()
}

// size returns the bytes of t's binaries on disk.
func (t target) size() int64 {
	var sum int64
	for _, name := range t.binaries() {
		if info, err := os.Stat(filepath.Join(t.dir, name)); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
