package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	goodMain = "package main\n\nimport \"example.com/greeting\"\n\nvar version string\n\nfunc main() { println(greeting.Hello, version) }\n"
	badMain  = "package main\n\nfunc main() { nothing.Known() }\n"
)

var hello = program{
	name: "hello", group: "test", module: "hello", source: "example.com/greeting",
	stamp: stampVersion("main.version", true), check: []string{},
}

// checkout makes a checkout with one module, whose only requirement is a folder beside it.
func checkout(t *testing.T, main string) (root string) {
	t.Helper()
	root = t.TempDir()
	write(t, filepath.Join(root, "greeting", "go.mod"), "module example.com/greeting\n\ngo 1.26.0\n")
	write(t, filepath.Join(root, "greeting", "greeting.go"), "package greeting\n\nconst Hello = \"hello\"\n")
	write(t, filepath.Join(root, "tools", "hello", "go.mod"), gomod("v1.2.3"))
	write(t, filepath.Join(root, "tools", "hello", "main.go"), main)
	return root
}

func gomod(version string) string {
	return "module example.com/hello\n\ngo 1.26.0\n\nrequire example.com/greeting " + version +
		"\n\nreplace example.com/greeting => ../../greeting\n"
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func buildHello(ctx context.Context, root string, p program) (string, error) {
	var out bytes.Buffer
	b, err := newBuilder(root, []program{p}, &out)
	if err != nil {
		return "", err
	}
	err = b.build(ctx, []string{"hello"})
	return out.String(), err
}

// unfinished returns the folders of builds that did not come to their end.
func unfinished(t *testing.T, root string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(root, ".cache", "tools", "hello", temporaryPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestBuild(t *testing.T) {
	root := checkout(t, goodMain)
	leftover := filepath.Join(root, ".cache", "tools", "hello", temporaryPrefix+"killed")
	write(t, filepath.Join(leftover, "hello"), "half a binary")

	if _, err := buildHello(t.Context(), root, hello); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, ".cache", "tools", "bin", "hello")
	if output, err := exec.Command(link).CombinedOutput(); err != nil || string(output) != "hello 1.2.3\n" {
		t.Errorf("the program says %q, %v", output, err)
	}
	if left := unfinished(t, root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	out, err := buildHello(t.Context(), root, hello)
	if err != nil || out != "" {
		t.Errorf("a second build said %q, %v; want silence", out, err)
	}

	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	out, err = buildHello(t.Context(), root, hello)
	if _, statErr := os.Stat(link); err != nil || out != "" || statErr != nil {
		t.Errorf("a lost link was not put back without a build: %q, %v, %v", out, err, statErr)
	}

	write(t, filepath.Join(root, "tools", "hello", "go.mod"), gomod("v1.3.0"))
	if _, err := buildHello(t.Context(), root, hello); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command(link).CombinedOutput(); err != nil || string(output) != "hello 1.3.0\n" {
		t.Errorf("with another version pinned the program says %q, %v", output, err)
	}
}

func TestBuildTest(t *testing.T) {
	root := checkout(t, goodMain)
	write(t, filepath.Join(root, "greeting", "polite", "polite_test.go"), `package polite_test

import (
	"os"
	"testing"

	"example.com/greeting"
)

var version string

func TestMain(*testing.M) {
	os.Stdout.WriteString(greeting.Hello + " " + version + "\n")
}
`)
	polite := program{
		name: "hello", group: "test", module: "hello", source: "example.com/greeting", main: []string{"polite"}, test: true,
		stamp: stampVersion("example.com/greeting/polite_test.version", true), check: []string{},
	}
	if _, err := buildHello(t.Context(), root, polite); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, ".cache", "tools", "bin", "polite.test")
	if output, err := exec.Command(link).CombinedOutput(); err != nil || string(output) != "hello 1.2.3\n" {
		t.Errorf("the tests say %q, %v", output, err)
	}
}

func TestBuildFails(t *testing.T) {
	lying := hello
	lying.stamp = func(string, time.Time) []string { return []string{"main.version=0.0.0"} }
	cases := map[string]struct {
		reason  string
		main    string
		program program
		want    []string
	}{
		"Compiler": {
			reason: "the error names the program, shows what the compiler said and how to see it alone",
			main:   badMain, program: hello,
			want: []string{"building hello v1.2.3", "undefined: nothing", "To see it alone: cd "},
		},
		"Version": {
			reason: "a program that does not tell its version is not kept",
			main:   goodMain, program: lying,
			want: []string{"hello v1.2.3 was built, but says: hello 0.0.0"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			root := checkout(t, tc.main)
			_, err := buildHello(t.Context(), root, tc.program)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s: no %q in: %v", tc.reason, want, err)
				}
			}
			if _, err := os.Stat(filepath.Join(root, ".cache", "tools", "hello", "v1.2.3")); err == nil {
				t.Error("a failed build left its folder")
			}
			if left := unfinished(t, root); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestBuildInterrupted(t *testing.T) {
	root := checkout(t, goodMain)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := buildHello(ctx, root, hello); err == nil {
		t.Fatal("an interrupted build reports no error")
	}
	if left := unfinished(t, root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := buildHello(t.Context(), root, hello); err != nil {
		t.Errorf("after an interruption: %v", err)
	}
}

func TestBuildConcurrently(t *testing.T) {
	root := checkout(t, goodMain)
	var group sync.WaitGroup
	outputs, errs := make([]string, 3), make([]error, 3)
	for i := range outputs {
		group.Go(func() { outputs[i], errs[i] = buildHello(t.Context(), root, hello) })
	}
	group.Wait()
	built := 0
	for i := range outputs {
		if errs[i] != nil {
			t.Error(errs[i])
		}
		if strings.Contains(outputs[i], "Programs built: 1") {
			built++
		}
	}
	if built != 1 {
		t.Errorf("built %d times, want once: the others wait and find it built", built)
	}
}
