// Command kip-local runs a whole Kubernetes cluster with Kip on one machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/elotl/kip/v2/internal/localcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := localcluster.NewCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kip-local:", err)
		os.Exit(1)
	}
}
