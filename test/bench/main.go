package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/elotl/kip/v2/internal/localcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the run and its cluster, the second the cleaning up.
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:           "bench",
		Short:         "Measure what Kip costs in time and memory",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.PersistentFlags().StringVar(&root, "root", ".", "Kip's source tree, where make has built the programs")
	cmd.AddCommand(startCommand(&root), overheadCommand(&root), configMapsCommand(&root), imagesCommand(&root), scaleCommand(&root))
	return cmd
}

func startCommand(root *string) *cobra.Command {
	o := startOptions{}
	out := ""
	cmd := &cobra.Command{
		Use: "start", Args: cobra.NoArgs,
		Short: "Measure how long pods take to start on cold cells, on standby cells, and on an ordinary node beside them",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return report(cmd, localcluster.Config{Root: *root}, out, func(ctx context.Context, b *bench, w *document) error { return b.start(ctx, o, w) })
		},
	}
	cmd.Flags().IntVar(&o.pods, "pods", 30, "pods on cold cells and on the ordinary node, one after the other; 0 leaves them out")
	cmd.Flags().IntVar(&o.standby, "standby", 30, "pods that take standby cells; 0 leaves them out")
	cmd.Flags().IntVar(&o.burst, "burst", 40, "pods that are made in a burst; 0 leaves it out")
	cmd.Flags().Float64Var(&o.rate, "rate", 20, "pods per second of the burst")
	cmd.Flags().StringVar(&out, "out", filepath.Join("docs", "benchmarks", "start.md"), "file for the report; empty: none")
	return cmd
}

func overheadCommand(root *string) *cobra.Command {
	out, settle := "", time.Minute
	cmd := &cobra.Command{
		Use: "overhead", Args: cobra.NoArgs,
		Short: "Measure the memory a cell needs beside its pod",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return report(cmd, localcluster.Config{Root: *root}, out, func(ctx context.Context, b *bench, w *document) error { return b.overhead(ctx, settle, w) })
		},
	}
	cmd.Flags().DurationVar(&settle, "settle", settle, "how long the pod has run when the memory is read")
	cmd.Flags().StringVar(&out, "out", filepath.Join("docs", "benchmarks", "overhead.md"), "file for the report; empty: none")
	return cmd
}

func configMapsCommand(root *string) *cobra.Command {
	o := configMapOptions{}
	out := ""
	cmd := &cobra.Command{
		Use: "configmaps", Args: cobra.NoArgs,
		Short: "Measure when changes of ConfigMaps are in pods' files",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return report(cmd, localcluster.Config{Root: *root}, out, func(ctx context.Context, b *bench, w *document) error { return b.configMaps(ctx, o, w) })
		},
	}
	cmd.Flags().IntVar(&o.pods, "pods", 50, "pods, each with a ConfigMap")
	cmd.Flags().IntVar(&o.updates, "updates", 500, "changes in all")
	cmd.Flags().DurationVar(&o.over, "over", 3*time.Minute, "the time over which they are spread")
	cmd.Flags().StringVar(&out, "out", filepath.Join("docs", "benchmarks", "configmaps.md"), "file for the report; empty: none")
	return cmd
}

func imagesCommand(root *string) *cobra.Command {
	o := imageOptions{}
	out := ""
	cmd := &cobra.Command{
		Use: "images", Args: cobra.NoArgs,
		Short: "Measure how pods start from large images: pulled, and from the image cache",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.cells == string(localcluster.CellsVM) && !cmd.Flags().Changed("out") {
				out = filepath.Join("docs", "benchmarks", "images-nfs.md")
			}
			patience = imagePatience
			cfg := localcluster.Config{Root: *root, Cells: localcluster.CellKind(o.cells), ImageCache: true}
			return report(cmd, cfg, out, func(ctx context.Context, b *bench, w *document) error { return b.images(ctx, o, w) })
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&o.megabytes, "sizes", []int{50, 500, 2000}, "sizes of images in MB, the largest last")
	f.IntVar(&o.rounds, "rounds", 5, "how often each image is started in each way")
	f.IntVar(&o.percent, "read", 6, "how much of its image a process reads, in percent")
	f.StringVar(&o.cells, "cells", string(localcluster.CellsContainer), "what cells are: container, or vm with a share that is NFS")
	f.StringVar(&out, "out", filepath.Join("docs", "benchmarks", "images.md"), "file for the report, of virtual machines images-nfs.md beside it; empty: none")
	return cmd
}

func scaleCommand(root *string) *cobra.Command {
	o := scaleOptions{}
	out := ""
	cmd := &cobra.Command{
		Use: "scale", Args: cobra.NoArgs,
		Short: "Measure Kip with ever more cells, which run nothing",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := localcluster.Config{Root: *root, Cells: localcluster.CellsHollow, Unthrottled: true, Audit: true}
			return report(cmd, cfg, out, func(ctx context.Context, b *bench, w *document) error { return b.scale(ctx, o, w) })
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&o.sizes, "sizes", []int{500, 1000, 2000, 5000}, "numbers of cells, each more than the one before")
	f.DurationVar(&o.settle, "settle", 30*time.Second, "how long nothing happens before Kip is measured idle")
	f.DurationVar(&o.idle, "idle", time.Minute, "how long it is measured idle")
	f.DurationVar(&o.churn, "churn", 10*time.Minute, "how long pods come and go at each size; 0 leaves it out")
	f.Float64Var(&o.rate, "rate", 20, "pods per second that come and go")
	f.DurationVar(&o.load, "load", 10*time.Second, "how long the gateway is measured with each kind of request; 0 leaves it out")
	f.DurationVar(&o.fillTimeout, "patience", 20*time.Minute, "how long the pods of one size may take to run")
	f.StringVar(&o.profiles, "profiles", "", "directory for profiles of Kip at rest; empty: none")
	f.StringVar(&out, "out", filepath.Join("docs", "benchmarks", "scale.md"), "file for the report; empty: none")
	return cmd
}

// report runs a measurement on a cluster of its own, and writes what it says
// to standard output and to the file.
func report(cmd *cobra.Command, cfg localcluster.Config, path string, measure func(context.Context, *bench, *document) error) error {
	began := time.Now()
	progress := func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	text := &document{}
	err := withCluster(cmd.Context(), cfg, progress, func(ctx context.Context, b *bench) error { return measure(ctx, b, text) })
	if err != nil {
		return err
	}
	if _, err := cmd.OutOrStdout().Write(text.Bytes()); err != nil || path == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}
