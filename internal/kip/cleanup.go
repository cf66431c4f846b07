package kip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/aws"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// NewCleanupCommand is the command kip cleanup.
func NewCleanupCommand() *cobra.Command {
	o := Options{}
	timeout := 10 * time.Minute
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what Kip leaves in the cloud when it is uninstalled",
		Long: `Removes the security group that Kip made for its cells, the one thing in the
cloud that outlives them, and what cells left behind, if anything. It takes the flags of the kip run whose group it is,
and refuses while an instance of that Kip exists: end those by deleting their
pods while Kip runs. Kip itself must not run any more, it would make the group
again. Safe to repeat.

kustomize/undeploy.sh runs it in the cluster, with Kip's own role.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return cleanUp(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
	f := cmd.Flags()
	identityFlags(f, &o)
	f.DurationVar(&timeout, "timeout", timeout, "how long to try")
	return cmd
}

// cleanUpPause: the interfaces of terminated instances hold the group for up
// to some minutes.
const cleanUpPause = 5 * time.Second

func cleanUp(ctx context.Context, o Options, log *slog.Logger) error {
	cfg, err := config.Load(o.ProviderConfig)
	if err != nil {
		return err
	}
	catalogue, err := instancetype.Embedded()
	if err != nil {
		return fmt.Errorf("loading the instance type catalogue: %w", err)
	}
	cloud, err := newCloud(ctx, o, cfg, aws.ImageSpec{}, catalogue, nil, log)
	if err != nil {
		return err
	}
	for {
		err := cloud.CleanUp(ctx)
		if err == nil || !passes(err) {
			return err
		}
		log.Info("the security group cannot be removed yet, trying again", "err", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("giving up (--timeout): %w", err)
		case <-time.After(cleanUpPause):
		}
	}
}

// passes tells whether waiting may help.
func passes(err error) bool {
	cause, ok := errors.AsType[*cloudprovider.Error](err)
	return ok && (cause.Kind == cloudprovider.Transient || cause.Kind == cloudprovider.Throttled)
}
