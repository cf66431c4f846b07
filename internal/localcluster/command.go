package localcluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// NewCommand is the command kip-local.
func NewCommand() *cobra.Command {
	var cfg Config
	root := &cobra.Command{
		Use:   "kip-local",
		Short: "Run a Kubernetes cluster with Kip on this machine",
		Long: `Runs a whole Kubernetes cluster on this machine whose pods run on cells: etcd,
the control plane, CoreDNS, metrics-server, a registry, Kip, and ec2local, which
answers like EC2 and whose instances are sandboxes of this machine.

A cluster is a directory. up may be interrupted and repeated at any time; down
leaves nothing behind.`,
		Example: `  kip-local up
  export KUBECONFIG=$(kip-local kubeconfig)
  kubectl get cells
  kip-local down`,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			cmd.SilenceUsage = true
			if cfg.Dir == "" {
				cfg.Dir = filepath.Join(cfg.Root, ".cache", "clusters", cfg.Name)
			}
			cfg.Progress = progress(cmd.ErrOrStderr())
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&cfg.Name, "name", "kip", "the cluster's name; several can run side by side")
	f.StringVar(&cfg.Root, "root", sourceTree(), "Kip's source tree, where make has built the programs")
	f.StringVar(&cfg.Dir, "dir", "", "the cluster's directory (default ROOT/.cache/clusters/NAME)")
	root.AddCommand(upCommand(&cfg), downCommand(&cfg), statusCommand(&cfg), kubeconfigCommand(&cfg), logsCommand(&cfg), loadCommand(&cfg))
	return root
}

// sourceTree is the closest directory upwards that holds Kip's go.mod.
func sourceTree() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	for d := dir; ; d = filepath.Dir(d) {
		if data, err := os.ReadFile(filepath.Join(d, "go.mod")); err == nil && strings.HasPrefix(string(data), "module github.com/elotl/kip/v2\n") {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

// progress prints lines with the time since the command began.
func progress(w io.Writer) func(string, ...any) {
	began := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(w, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// with opens the cluster for one command.
func with(cfg *Config, do func(*cobra.Command, *Cluster, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		c, err := Open(*cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		return do(cmd, c, args)
	}
}

// existing is with for a cluster that must have been made.
func existing(cfg *Config, do func(*cobra.Command, *Cluster, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if _, err := os.Stat(filepath.Join(cfg.Dir, "cluster.json")); err != nil {
			return fmt.Errorf("there is no cluster %q in %s; kip-local up makes it", cfg.Name, cfg.Dir)
		}
		return with(cfg, do)(cmd, args)
	}
}

func upCommand(cfg *Config) *cobra.Command {
	example, kip, cells := true, string(KipPod), string(CellsContainer)
	cmd := &cobra.Command{
		Use: "up", Args: cobra.NoArgs,
		Short: "Start the cluster, or what of it does not run, and the example",
		Long: `Starts the cluster, replaces what was built anew, and ends when the example's
pods are Ready on cells of their own. Safe to interrupt and to repeat.

Kip is installed as on EKS, as a pod of the ordinary node with a role of its
own. --kip=process runs it as a process of this machine instead, for work on
Kip itself; --kip=none leaves it out, to install it by hand.

Cells are sandboxes of this machine. With --cells=vm new cells are virtual
machines that boot the image of make cell-image; where KVM does not work they
are emulated, and a pod takes a minute to start. With --cells=stock they boot
what stands for Amazon's image for EKS nodes (make stock-image). With
--cells=hollow, which needs --kip=process, cells only look like some to Kip and
the API server: thousands of them cost little, and nothing runs in them.

With --image-cache there is an image cache: a directory of this machine and the
controller that fills it. Virtual machines mount the directory from an NFS
server; sandboxes see it where they would mount a file server's.`,
		PreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains(kipModes, kip) {
				return fmt.Errorf("--kip is %q; it takes %s", kip, strings.Join(kipModes, ", "))
			}
			if !slices.Contains(cellKinds, cells) {
				return fmt.Errorf("--cells is %q; it takes %s", cells, strings.Join(cellKinds, ", "))
			}
			cfg.Kip, cfg.Cells = KipMode(kip), CellKind(cells)
			example = example && cfg.Kip != KipNone
			return nil
		},
		RunE: with(cfg, func(cmd *cobra.Command, c *Cluster, _ []string) error {
			if err := c.Up(cmd.Context()); err != nil {
				return err
			}
			if !example {
				return nil
			}
			if err := c.Example(cmd.Context()); err != nil {
				return err
			}
			return c.printExample(cmd.Context(), cmd.OutOrStdout())
		}),
	}
	cmd.Flags().StringVar(&kip, "kip", kip, "how Kip runs: "+strings.Join(kipModes, ", "))
	cmd.Flags().StringVar(&cells, "cells", cells, "what cells are: "+strings.Join(cellKinds, ", "))
	cmd.Flags().BoolVar(&cfg.ImageCache, "image-cache", false, "let cells mount the layers of images instead of pulling them")
	cmd.Flags().BoolVar(&example, "example", example, "deploy the example application and wait for it")
	return cmd
}

func downCommand(cfg *Config) *cobra.Command {
	return &cobra.Command{
		Use: "down", Args: cobra.NoArgs,
		Short: "End the cluster and remove everything it made",
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Stat(cfg.Dir); errors.Is(err, fs.ErrNotExist) {
				cfg.Progress("there is no cluster %q in %s: nothing to end", cfg.Name, cfg.Dir)
				return nil
			}
			return with(cfg, func(cmd *cobra.Command, c *Cluster, _ []string) error { return c.Down(cmd.Context()) })(cmd, args)
		},
	}
}

func statusCommand(cfg *Config) *cobra.Command {
	return &cobra.Command{
		Use: "status", Args: cobra.NoArgs,
		Short: "Show what runs, the cells and what they cost",
		Long:  "Shows every component, the cells and their price. Ends non-zero when a component does not run or is not ready.",
		RunE: existing(cfg, func(cmd *cobra.Command, c *Cluster, _ []string) error {
			states, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			broken := 0
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "COMPONENT\tSTATE\tPID\tSINCE")
			for _, s := range states {
				switch {
				case !s.Running:
					fmt.Fprintf(w, "%s\tdoes not run\t-\t-\n", s.Name)
					broken++
				case s.Ready != nil:
					fmt.Fprintf(w, "%s\tnot ready: %v\t%s\t%s\n", s.Name, s.Ready, s.pid(), s.Since.Format(time.DateTime))
					broken++
				default:
					fmt.Fprintf(w, "%s\tready\t%s\t%s\n", s.Name, s.pid(), s.Since.Format(time.DateTime))
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if broken > 0 {
				return fmt.Errorf("%d of %d components do not serve; kip-local up repairs that, kip-local logs COMPONENT says why", broken, len(states))
			}
			return c.printCells(cmd.Context(), cmd.OutOrStdout())
		}),
	}
}

// pid is the process ID for people.
func (s ComponentStatus) pid() string {
	if s.PID == 0 {
		return "(pod)"
	}
	return strconv.Itoa(s.PID)
}

func kubeconfigCommand(cfg *Config) *cobra.Command {
	return &cobra.Command{
		Use: "kubeconfig", Args: cobra.NoArgs,
		Short: "Print the path of the administrator's kubeconfig",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := filepath.Join(cfg.Dir, adminKubeconfig)
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("there is no cluster %q in %s; kip-local up makes it", cfg.Name, cfg.Dir)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
}

func logsCommand(cfg *Config) *cobra.Command {
	return &cobra.Command{
		Use: "logs COMPONENT", Args: cobra.ExactArgs(1), ValidArgs: Components,
		Short: "Print a component's log: " + strings.Join(Components, ", "),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := &Cluster{Config: *cfg, processes: processes{logDir: filepath.Join(cfg.Dir, "logs")}}
			if !slices.Contains(Components, args[0]) {
				return fmt.Errorf("there is no component %q; there are %s", args[0], strings.Join(Components, ", "))
			}
			f, err := os.Open(c.LogPath(args[0]))
			if _, there := os.Stat(c.Kubeconfig()); args[0] == Kip && errors.Is(err, fs.ErrNotExist) && there == nil {
				return fmt.Errorf("a Kip that runs as a pod has no log here: kubectl --kubeconfig %s -n %s logs %s", c.Kubeconfig(), kipNamespace, NodeName)
			}
			if err != nil {
				return fmt.Errorf("%s has no log: %w", args[0], err)
			}
			defer f.Close()
			_, err = io.Copy(cmd.OutOrStdout(), f)
			return err
		},
	}
}

func loadCommand(cfg *Config) *cobra.Command {
	return &cobra.Command{
		Use: "load FILE.tar...", Args: cobra.MinimumNArgs(1),
		Short: "Put images into the cluster's registry under their own names",
		Long: `Puts the images of tar files, as docker save or an OCI tool writes them, into
the cluster's registry. Pods then use them by their own names: cells ask that
registry before any other.`,
		RunE: existing(cfg, func(cmd *cobra.Command, c *Cluster, args []string) error {
			for _, path := range args {
				names, err := c.Load(cmd.Context(), path)
				for _, n := range names {
					fmt.Fprintln(cmd.OutOrStdout(), n)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
