// Command kip runs Kubernetes pods on cloud instances of their own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	// The image holds nothing but this program; where the system has roots of
	// trust, they are used instead.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/elotl/kip/v2/internal/explain"
	"github.com/elotl/kip/v2/internal/kip"
)

func main() {
	// What lives is much, thousands of connections and their cells, and what is
	// thrown away between two collections little.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	root := &cobra.Command{
		Use:   "kip",
		Short: "Kip runs every pod on its own right-sized cloud instance",
		// main prints the error, once.
		SilenceErrors: true,
	}
	root.AddCommand(kip.NewCommand(), kip.NewCleanupCommand(), kip.NewAuthorityCommand(), kip.NewImageCacheCommand(), explain.NewCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kip:", err)
		os.Exit(1)
	}
}
