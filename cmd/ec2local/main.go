// Command ec2local is an EC2 endpoint on one machine, with real instances made of Linux namespaces.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/elotl/kip/v2/internal/ec2local/container"
)

func main() {
	container.MaybeRunInit() // machines begin as copies of this program

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ec2local:", err)
		stop()
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "ec2local",
		Short:         "An EC2 endpoint on one machine, with real instances",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var verbose bool
	cmd.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "log every request")
	cmd.PersistentPreRun = func(*cobra.Command, []string) {
		level := slog.LevelInfo
		if verbose {
			level = slog.LevelDebug
		}
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	}
	cmd.AddCommand(serveCommand(), destroyCommand())
	return cmd
}
