package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// tailLines is how much of a failed command's output an error shows.
const tailLines = 20

// temporaryPrefix begins the names of folders in which a build is under way.
const temporaryPrefix = ".building-"

// compileOne builds t in a temporary folder and renames that to t.dir. The
// caller holds lock.
func (b *builder) compileOne(ctx context.Context, t target, progress *progress, lock *os.File) error {
	parent := filepath.Dir(t.dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("building %s: %w", t.name, err)
	}
	// What an earlier build left when it was killed; the lock says it is nobody's now.
	left, _ := filepath.Glob(filepath.Join(parent, temporaryPrefix+"*"))
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("building %s: removing what a killed build left: %w", t.name, err)
		}
	}
	dir, err := os.MkdirTemp(parent, temporaryPrefix)
	if err != nil {
		return fmt.Errorf("building %s: %w", t.name, err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("building %s: %w", t.name, err)
	}
	released, err := t.released(ctx, b)
	if err != nil {
		return err
	}

	start := time.Now()
	progress.begin()
	err = b.goBuild(ctx, t, dir, released, progress, lock)
	progress.end()
	if err != nil {
		return err
	}
	if err := t.verify(ctx, dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, stampName), []byte(t.fingerprint), 0o644); err != nil {
		return fmt.Errorf("building %s: %w", t.name, err)
	}
	if err := os.RemoveAll(t.dir); err != nil { // same version, other flags or Go
		return fmt.Errorf("replacing %s: %w", t.name, err)
	}
	if err := os.Rename(dir, t.dir); err != nil {
		return fmt.Errorf("building %s: %w", t.name, err)
	}
	fmt.Fprintf(b.out, "%s %s built in %s, %d MB\n", t.name, t.version, roughly(time.Since(start)), t.size()/1e6)
	return nil
}

// released returns the date of t's version, by which two builds of it are equal.
func (t target) released(ctx context.Context, b *builder) (time.Time, error) {
	output, err := t.goOutput(ctx, b.out, "list", "-m", "-mod=readonly",
		"-f", `{{with .Time}}{{.Format "2006-01-02T15:04:05Z07:00"}}{{end}}`, t.source)
	if err != nil {
		return time.Time{}, fmt.Errorf("finding the date of %s %s: %w", t.name, t.version, err)
	}
	text := strings.TrimSpace(string(output))
	if text == "" {
		return time.Unix(0, 0), nil // a module replaced by a folder
	}
	date, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("finding the date of %s %s: %w", t.name, t.version, err)
	}
	return date, nil
}

// goBuild runs go build, which prints each package as it compiles it. go test
// prints nothing, so what a test is made of is built before it.
func (b *builder) goBuild(ctx context.Context, t target, dir string, released time.Time, progress *progress, lock *os.File) error {
	output := dir + string(filepath.Separator)
	if t.rename != "" {
		output += t.rename
	}
	how := []string{"build", "-v"}
	if t.test {
		parts, err := t.imports(ctx, b.out)
		if err != nil {
			return err
		}
		args := append([]string{"build", "-v"}, t.buildFlags()...)
		if err := b.goCommand(ctx, t, progress, lock, append(args, parts...)); err != nil {
			return err
		}
		how = []string{"test", "-c"}
		output += t.binaries()[0]
	}
	args := append(how, t.buildFlags()...)
	args = append(args, "-ldflags="+t.ldflags(t.version, released), "-o", output)
	return b.goCommand(ctx, t, progress, lock, append(args, t.packages()...))
}

// imports returns what the tests of t import.
func (t target) imports(ctx context.Context, out io.Writer) ([]string, error) {
	args := append([]string{"list", "-f", `{{join .TestImports "\n"}}{{"\n"}}{{join .XTestImports "\n"}}`}, t.buildFlags()...)
	listed, err := t.goOutput(ctx, out, append(args, t.packages()...)...)
	if err != nil {
		return nil, fmt.Errorf("reading the imports of %s %s: %w", t.name, t.version, err)
	}
	return strings.Fields(string(listed)), nil
}

// goCommand runs a go command that builds something of t.
func (b *builder) goCommand(ctx context.Context, t target, progress *progress, lock *os.File, args []string) error {
	cmd := t.command(ctx, args...)
	messages := &tail{keep: tailLines, line: progress.compiled}
	cmd.Stdout, cmd.Stderr = messages, messages
	cmd.ExtraFiles = []*os.File{lock}
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("building %s %s: %w", t.name, t.version, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("building %s %s: %w; the last lines it said:\n%s\nTo see it alone: cd %s && %s",
			t.name, t.version, err, messages, t.moduleDir, shellCommand(cmd))
	}
	return nil
}

// verify runs the fresh binaries: each must start and tell its version.
func (t target) verify(ctx context.Context, dir string) error {
	for _, name := range t.binaries() {
		// Some of them print it and exit with an error: a CNI plugin wants an environment.
		output, err := exec.CommandContext(ctx, filepath.Join(dir, name), t.check...).CombinedOutput()
		if ctx.Err() != nil {
			return fmt.Errorf("asking %s for its version: %w", name, ctx.Err())
		}
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return fmt.Errorf("asking %s for its version: %w", name, err)
		}
		if !strings.Contains(string(output), strings.TrimPrefix(t.version, "v")) {
			return fmt.Errorf("%s %s was built, but says: %s", name, t.version, strings.TrimSpace(string(output)))
		}
	}
	return nil
}

// shellCommand returns cmd as a person would type it, building into the folder at hand.
func shellCommand(cmd *exec.Cmd) string {
	words := []string{cmd.Env[len(cmd.Env)-1]}
	skip := false
	for _, arg := range cmd.Args {
		switch {
		case skip:
			skip = false
		case arg == "-o":
			skip = true
		case strings.ContainsAny(arg, " \t"):
			words = append(words, "'"+arg+"'")
		default:
			words = append(words, arg)
		}
	}
	return strings.Join(words, " ")
}
