// Command conformance runs Kubernetes' tests of a node against Kip on this
// machine, and writes what came of it to docs/conformance.md. See package
// test/conformance.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/elotl/kip/v2/test/conformance"
)

type options struct {
	parallel int
	run      *regexp.Regexp
	failed   bool
	fresh    bool
	keep     bool
	cache    bool
	period   time.Duration
	report   string
}

func main() {
	var o options
	flag.IntVar(&o.parallel, "parallel", 8, "how many specs run at a time; half of the places are for those that wait for minutes")
	flag.Func("run", "only specs whose name this regular expression matches, whether they ran before or not", func(text string) (err error) {
		o.run, err = regexp.Compile(text)
		return err
	})
	flag.BoolVar(&o.failed, "failed", false, "the specs that failed, once more")
	flag.BoolVar(&o.fresh, "fresh", false, "forget all results and begin anew")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster there, to look at it; the next call uses it")
	flag.BoolVar(&o.cache, "image-cache", false, "give the cluster an image cache")
	flag.DurationVar(&o.period, "for", 0, "begin no further spec after that time, which leaves those that are under way a few minutes; the next call goes on")
	flag.StringVar(&o.report, "report", filepath.Join("docs", "conformance.md"), "where the report goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, o)
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "Interrupted. Results are kept: the same command goes on from here.")
		os.Exit(130)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("a local cluster makes network namespaces and containers: run it as root")
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, ".cache", "conformance")
	if o.fresh {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	suite := conformance.Suite{Program: filepath.Join(root, ".cache", "tools", "bin", "e2e.test"), Dir: dir}
	plan, err := suite.Plan(ctx)
	if err != nil {
		return err
	}
	todo := plan.Open()
	switch {
	case o.run != nil:
		todo = plan.Matching(o.run)
	case o.failed:
		todo = plan.Failed()
	}
	if len(todo) > 0 {
		if err := test(ctx, o, root, dir, todo); err != nil {
			return err
		}
		if plan, err = suite.Plan(ctx); err != nil {
			return err
		}
	}
	report, err := plan.Report(ctx, root)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.report, report, 0o644); err != nil {
		return err
	}
	fmt.Printf("%s\n%s says more.\n", plan.Summary(), o.report)
	if len(plan.Open()) > 0 {
		fmt.Println("The same command goes on with those that have not run yet.")
	} else {
		fmt.Println("-fresh runs everything anew.")
	}
	if failed := plan.Failed(); len(failed) > 0 {
		return fmt.Errorf("%d specs failed", len(failed))
	}
	return nil
}

// test runs specs on a cluster.
func test(ctx context.Context, o options, root, dir string, todo []conformance.Spec) error {
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%7.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	cluster := conformance.Config{Name: "conform", Root: root, Dir: dir, Keep: o.keep, ImageCache: o.cache, Progress: say}
	return conformance.WithCluster(ctx, cluster, func(ctx context.Context, suite conformance.Suite) error {
		say("%d specs, %d at a time; what each writes is below %s", len(todo), o.parallel, dir)
		first := time.Now()
		var until time.Time
		if o.period > 0 {
			until = first.Add(o.period)
		}
		count := 0
		return suite.RunAll(ctx, todo, o.parallel, until, func(spec conformance.Spec, r conformance.Result) {
			count++
			left := time.Since(first) / time.Duration(count) * time.Duration(len(todo)-count)
			say("%d of %d, about %s left: %s in %.0f s: %s", count, len(todo), left.Round(time.Second), r.State, r.Seconds, spec.Name)
			if r.State == conformance.Failed {
				say("   %s", suite.Where(spec, r))
			}
		})
	})
}
