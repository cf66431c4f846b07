package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/elotl/kip/v2/internal/ec2local/hollowcell"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

func destroyCommand() *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "destroy",
		Short: "End all instances and remove everything that serve made",
		Long: "End all instances, without asking them, and remove their disks, the network and the state. No ec2local\n" +
			"may be serving from the state directory. Interrupted, it can be repeated.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return destroy(cmd.Context(), state) },
	}
	cmd.Flags().StringVar(&state, "state", "", "the state directory of serve")
	_ = cmd.MarkFlagRequired("state") // fails for unknown flags only
	return cmd
}

func destroy(ctx context.Context, state string) error {
	if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	held, err := lock(state)
	if err != nil {
		return err
	}
	defer held.Close()
	c, ok, err := readCluster(state)
	if err != nil {
		return err
	}
	switch {
	case !ok || c.Hollow:
	case c.HollowCells:
		err = hollowcell.RemoveRoute(c.VPC)
	default:
		err = destroyCluster(ctx, state, c)
	}
	if err != nil {
		return err
	}
	// What destroy needs to know goes last.
	for _, name := range []string{cloudDir, machinesDir, computersDir, credentialsFile, clusterFile, lockFile} {
		if err := os.RemoveAll(filepath.Join(state, name)); err != nil {
			return fmt.Errorf("removing the state: %w", err)
		}
	}
	// Somebody else's files may be there as well.
	_ = os.Remove(state)
	return nil
}

// destroyCluster ends the machines and removes the network.
func destroyCluster(ctx context.Context, state string, c cluster) error {
	network, err := vpcnet.Open(ctx, c.network())
	if err != nil {
		return err
	}
	if err := removeMachines(ctx, state, c, network); err != nil {
		return errors.Join(err, network.Close())
	}
	return network.Destroy()
}

func removeMachines(ctx context.Context, state string, c cluster, network *vpcnet.Network) error {
	hypervisors, err := openHypervisors(serveOptions{state: state}, c, network, netip.Addr{})
	if err != nil {
		return err
	}
	defer hypervisors.close()
	hypervisor := hypervisors.mix()
	defer hypervisor.Close()
	ids, err := hypervisors.machines()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := hypervisor.Remove(ctx, id); err != nil {
			return err
		}
		slog.Info("removed", "instance", id)
	}
	return nil
}
