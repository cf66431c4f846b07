package explain

import (
	"os"

	"github.com/spf13/cobra"
)

// defaultRegion is used where neither flag, configuration nor environment name
// one.
const defaultRegion = "us-west-2"

// NewCommand is "kip explain".
func NewCommand() *cobra.Command {
	var o Options
	var output string
	cmd := &cobra.Command{
		Use:   "explain -f FILE",
		Short: "Show which instance a pod would get, why, and at what price",
		Long: `Shows for each pod in the files the effective request, the instance type that
Kip would launch and why, the next candidates in order, and what was ruled out
by what. Workloads (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job,
CronJob) are explained by their pod template; other objects are passed over.

No cluster and no cloud account is needed: prices and zones are those that Kip
ships with. What a cluster adds to a pod (LimitRanges, RuntimeClass overhead,
webhooks) is not known here. The exit code is 1 if a pod fits nowhere.`,
		Example: `  kip explain -f pod.yaml
  kip explain -f deployment.yaml --region eu-central-1 -o json
  kubectl get pod web -o yaml | kip explain -f - --type m6i.large`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Output = Output(output)
			o.EnvRegion = firstEnv("AWS_REGION", "AWS_DEFAULT_REGION")
			return Run(cmd.Context(), o, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.Files, "filename", "f", nil, `manifests, YAML or JSON; "-" is the standard input`)
	f.StringVarP(&output, "output", "o", string(Table), "table or json")
	f.StringVar(&o.Region, "region", "", "cloud region (default: the configuration's, $AWS_REGION, "+defaultRegion+")")
	f.StringSliceVar(&o.Zones, "zone", nil, "zones with a subnet (default: all of the region)")
	f.StringSliceVar(&o.Types, "type", nil, "also say what stands for or against these instance types")
	f.StringVar(&o.ConfigFile, "config", "", "provider.yaml, for region, default instance type and volume size, public addresses")
	f.StringVar(&o.CatalogueFile, "catalogue", "", "file of instance types and prices instead of the built-in ones")
	f.IntVar(&o.Candidates, "candidates", 5, "how many further candidates to show")
	if err := cmd.MarkFlagRequired("filename"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func firstEnv(names ...string) string {
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v
		}
	}
	return ""
}
