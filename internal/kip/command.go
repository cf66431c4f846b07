package kip

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/elotl/kip/v2/internal/servingcert"
)

// Options are the flags of kip run.
type Options struct {
	ProviderConfig string
	Kubeconfig     string
	ClusterName    string
	Namespace      string
	NodeName       string
	NodeIP         string
	KubeletListen  string
	// KubeletServingSigner is what servingcert.Signer understands.
	KubeletServingSigner string
	MetricsListen        string
	HealthListen         string
	DataDir              string
	Catalogue            string
	DisableTaint         bool
	// LeaderElect: there may be several Kips of the virtual node, and this one
	// acts while it leads them. Identity is its name among them, one of its own
	// if empty.
	LeaderElect bool
	Identity    string
	LogLevel    slog.Level
}

// NewCommand is the command kip run.
func NewCommand() *cobra.Command {
	o := Options{}
	level := "info"
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Register the virtual node and run its pods on cells",
		Long: `Registers a virtual node and runs every pod that is bound to it on a cloud
instance of its own, a cell: the cheapest instance type that fits. The instance
is launched for the pod and terminated when the pod ends.

Kip keeps its state in Cell objects (kubectl get cells) and in the tags of its
instances. It may be stopped and started at any time: pods run on meanwhile.`,
		Example: `  # In a cluster, as the manifests in kustomize/ do it:
  kip run --provider-config /etc/kip/provider.yaml --cluster-name prod --node-ip $(POD_IP)

  # From a shell, for development:
  kip run --provider-config provider.yaml --kubeconfig ~/.kube/config --node-ip 10.0.0.5`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.LogLevel.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level is %q; it takes debug, info, warn or error", level)
			}
			if o.NodeIP == "" {
				return fmt.Errorf("--node-ip is required: the address at which the API server reaches Kip's kubelet API")
			}
			cmd.SilenceUsage = true
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel}))
			return Run(cmd.Context(), o, log)
		},
	}
	f := cmd.Flags()
	identityFlags(f, &o)
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as the pod's service account")
	f.StringVar(&o.NodeIP, "node-ip", os.Getenv("POD_IP"), "the address at which the API server reaches the kubelet API; $POD_IP by default")
	f.StringVar(&o.KubeletListen, "kubelet-listen", ":10250", "where the kubelet API listens")
	f.StringVar(&o.KubeletServingSigner, "kubelet-serving-signer", servingcert.Auto, "who signs the kubelet API's certificate: auto, self-signed, or the name of a signer")
	f.StringVar(&o.MetricsListen, "metrics-listen", ":9090", "where /metrics listens; 0 turns it off")
	f.StringVar(&o.HealthListen, "health-listen", ":8081", "where /healthz and /readyz listen; 0 turns them off")
	f.StringVar(&o.DataDir, "data-dir", filepath.Join(os.TempDir(), "kip"), "where logs of ended pods are kept")
	f.StringVar(&o.Catalogue, "catalogue", "", "a file with instance types and prices instead of the embedded ones")
	f.BoolVar(&o.DisableTaint, "disable-taint", false, "leave the virtual node without its taint: the scheduler puts any pod there")
	f.BoolVar(&o.LeaderElect, "leader-elect", false, "act only while holding the virtual node's Lease in Kip's namespace, so that a second Kip can stand by")
	f.StringVar(&o.Identity, "identity", "", "with --leader-elect, the name of this process among the virtual node's Kips; empty: one of its own. A Kip that starts again under its old name need not wait for its old lease to expire")
	f.StringVar(&level, "log-level", level, "debug, info, warn or error")
	return cmd
}

// identityFlags say which Kip this is and which cloud is its own.
func identityFlags(f *pflag.FlagSet, o *Options) {
	f.StringVar(&o.ProviderConfig, "provider-config", "/etc/kip/provider.yaml", "the configuration file (docs/configuration.md)")
	f.StringVar(&o.ClusterName, "cluster-name", "kip", "the cluster's name; with namespace and node name it tells this Kip's instances from all others")
	f.StringVar(&o.Namespace, "namespace", "kip", "Kip's own namespace, where it keeps its certificate authority")
	f.StringVar(&o.NodeName, "node-name", "kip-provider-0", "the virtual node's name")
}
