package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// linkWeight is what linking one binary costs, in the unit of a work: as much
// as compiling that many bytes of Go.
const linkWeight = 1_200_000

// A work is what remains to be compiled: for each package, by key, the bytes of
// its Go files, which foretell the time well.
type work map[string]int64

// key tells packages apart that are compiled apart: those of the standard
// library are shared by all modules that agree about cgo.
func (t target) key(importPath string) string {
	if first, _, _ := strings.Cut(importPath, "/"); !strings.Contains(first, ".") {
		return fmt.Sprintf("std cgo=%t %s", t.cgo, importPath)
	}
	return t.module + " " + importPath
}

// survey downloads what todo needs and finds what Go's build cache lacks of
// each. Programs share packages: those occur in several works.
func (b *builder) survey(ctx context.Context, todo []target) ([]work, error) {
	all := make([]work, len(todo))
	for i, t := range todo {
		fmt.Fprintf(b.out, "Reading the sources of %s %s (%d of %d)\n", t.name, t.version, i+1, len(todo))
		var err error
		if all[i], err = t.survey(ctx, b.out); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// staleFormat makes go list print a line for each package that must be compiled.
// The text is go list's name for a binary's package that is in the cache.
const staleFormat = `{{if and .Stale (ne .StaleReason "not installed but available in build cache")}}` +
	`{{.ImportPath}}{{"\t"}}{{.Dir}}{{range .GoFiles}}{{"\t"}}{{.}}{{end}}{{range .CgoFiles}}{{"\t"}}{{.}}{{end}}{{end}}`

func (t target) survey(ctx context.Context, out io.Writer) (work, error) {
	args := append([]string{"list", "-deps", "-f", staleFormat}, t.buildFlags()...)
	if t.test {
		args = append(args, "-test")
	}
	listed, err := t.goOutput(ctx, out, append(args, t.packages()...)...)
	if err != nil {
		return nil, fmt.Errorf("reading the sources of %s %s: %w", t.name, t.version, err)
	}
	stale := work{}
	lines := bufio.NewScanner(bytes.NewReader(listed))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) < 2 {
			continue
		}
		var size int64
		for _, name := range fields[2:] {
			if info, err := os.Stat(filepath.Join(fields[1], name)); err == nil {
				size += info.Size()
			}
		}
		stale[t.key(fields[0])] = size
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the sources of %s %s: %w", t.name, t.version, err)
	}
	return stale, nil
}

// command returns a go command in t's module. An interrupt reaches it as such,
// so that it removes its own temporary files.
func (t target) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = t.moduleDir
	cgo := "CGO_ENABLED=0"
	if t.cgo {
		cgo = "CGO_ENABLED=1"
	}
	// The flags of this machine's user must not change what is built.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", cgo)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	return cmd
}

// goOutput runs a go command and returns its output. A download, which may
// take minutes, is shown as it happens; other messages become part of the error.
func (t target) goOutput(ctx context.Context, out io.Writer, args ...string) ([]byte, error) {
	var stdout bytes.Buffer
	cmd := t.command(ctx, args...)
	cmd.Stdout = &stdout
	messages := &tail{keep: tailLines, line: func(line string) bool {
		if strings.HasPrefix(line, "go: downloading ") {
			fmt.Fprintln(out, "  "+strings.TrimPrefix(line, "go: "))
			return true
		}
		return false
	}}
	cmd.Stderr = messages
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, messages)
	}
	return stdout.Bytes(), nil
}
