// Command build makes the third-party programs that Kip's local cluster and its
// developers need, each from a pinned Go module under tools/.
//
// A program is built into .cache/tools/PROGRAM/VERSION/ and linked from
// .cache/tools/bin/. A build happens in a temporary folder that is renamed when
// it is complete, so an interruption leaves nothing half done, and Go's build
// cache keeps the packages compiled so far: run it again and it goes on. A
// program is built again only if its version, its module, its flags or the Go
// version changed. One build runs at a time; a second waits for the first.
//
// It needs the standard library only: it is what a fresh machine runs first.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `Builds the pinned third-party programs under tools/ and installs Debian packages.

  build programs NAME...   build programs or groups of them, if they are not built yet
  build list               every program: its version, its groups, whether it is built
  build deps SET...        install the Debian packages of a set that are missing

Groups: cluster (what a local cluster runs), dev (linters and generators),
        test (what only tests run).
Sets:   build (to compile runc), run (for a local cluster), test (for the end-to-end tests),
        vm (for virtual machines).

Flags, before the command:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nInterrupted. What is compiled is kept: the same command goes on from here.")
		stop()
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// run executes one command line. Progress and questions of fact go to stderr,
// answers to stdout.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.SetOutput(stderr)
	root := flags.String("root", ".", "the checkout")
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	builder, err := newBuilder(*root, programs, stderr)
	if err != nil {
		return err
	}
	switch command, names := flags.Arg(0), flags.Args(); {
	case command == "programs" && len(names) > 1:
		return builder.build(ctx, names[1:])
	case command == "list":
		return builder.list(stdout)
	case command == "deps" && len(names) > 1:
		return installDeps(ctx, names[1:], stderr)
	default:
		flags.Usage()
		return errors.New("name a command: programs NAME..., list or deps SET")
	}
}
