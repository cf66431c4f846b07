// Command kip-cell is the agent in a cell: PID 1 of a container cell and of
// Kip's own machine image, or a service on a stock one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/elotl/kip/v2/internal/agent"
	"github.com/elotl/kip/v2/internal/agent/credentialprovider"
	"github.com/elotl/kip/v2/internal/agent/imds"
	"github.com/elotl/kip/v2/internal/agent/kubelet"
	"github.com/elotl/kip/v2/internal/agent/machine"
)

// version is stamped at build time.
var version = "development"

func main() {
	started := time.Now()
	metadata := flag.String("metadata", imds.DefaultEndpoint, "URL of the instance metadata service")
	programs := flag.String("program-dir", "/opt/kip/bin", "directory of kubelet, containerd, its shim, runc and kube-proxy")
	plugins := flag.String("network-plugin-dir", "/opt/kip/cni/bin", "directory of the CNI plugins")
	grace := flag.Duration("container-grace", 3*time.Second, "how long containers have to end before power off")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: kip-cell [flags]\n       kip-cell version\n       kip-cell registry-credentials\n\n"+
			"Runs the agent of a Kip cell. It takes its orders from the instance's user data.\n"+
			"registry-credentials is for the cell's kubelet, which runs it as its image credential provider.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	switch flag.Arg(0) {
	case "version":
		fmt.Println(version)
		return
	case kubelet.CredentialProviderCommand:
		if err := credentialprovider.Run(context.Background(), credentialprovider.Socket, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "kip-cell:", err)
			os.Exit(1)
		}
		return
	}

	// The agent's own share of the memory beside the pod: it makes little
	// garbage, and more frequent collections cost nothing that shows.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := run(logger, agent.Config{
		Version:          version,
		StartedAt:        started,
		MetadataEndpoint: *metadata,
		ProgramDir:       *programs,
		NetworkPluginDir: *plugins,
		PodLogDir:        "/var/log/pods",
		ContainerGrace:   *grace,
		Logger:           logger,
	})
	switch {
	case errors.Is(err, agent.ErrPowerOff):
		machine.PowerOff(logger)
	case err != nil && machine.IsInit():
		// A machine that cannot be a cell is of no use, and costs money.
		logger.Error("the machine cannot be a cell", "error", err)
		machine.PowerOff(logger)
	case err != nil:
		logger.Error("the agent failed", "error", err)
		os.Exit(1)
	}
}

// run runs the agent until it ends or a signal ends it: as PID 1 together with
// the machine, otherwise the agent alone.
func run(logger *slog.Logger, config agent.Config) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := machine.PowerOffSignals()
	if machine.IsInit() {
		if err := machine.Prepare(); err != nil {
			return err
		}
	}
	a := agent.New(config)
	go func() {
		for s := range signals {
			logger.Info("received a signal", "signal", s.String())
			if !machine.IsInit() {
				cancel()
				return
			}
			a.PowerOff("signal: " + s.String())
		}
	}()
	if machine.IsInit() {
		go func() { // reads for as long as there is a machine
			if machine.AwaitPowerButton() {
				a.PowerOff("power button")
			}
		}()
	}
	return a.Run(ctx)
}
