// Command node is the init of the local cluster's ordinary node: it runs stock
// containerd, kubelet and kube-proxy, as on any machine that is a Kubernetes
// node, and nothing of Kip's. All configuration is in the machine image; see
// internal/localcluster.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/agent/containerd"
	"github.com/elotl/kip/v2/internal/agent/machine"
	"github.com/elotl/kip/v2/internal/agent/network"
	"github.com/elotl/kip/v2/internal/agent/process"
)

const (
	programs = "/opt/kip/bin"
	settings = "/etc/kubernetes/node.json"
)

// node is what the image says of the node besides the programs' own files.
type node struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("the machine cannot be a node", "err", err)
	}
	machine.PowerOff(log)
}

func run(log *slog.Logger) error {
	if err := machine.Prepare(); err != nil {
		return err
	}
	data, err := os.ReadFile(settings)
	if err != nil {
		return err
	}
	var n node
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("reading %s: %w", settings, err)
	}
	// Its pods have addresses of the VPC, as those of cells and of EKS's nodes.
	name, mtu, err := network.InterfaceOf(n.Address)
	if err != nil {
		return err
	}
	if err := (network.Config{Interface: name, Primary: n.Address, MTU: mtu}).Forward(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := machine.PowerOffSignals()
	go func() {
		<-signals
		cancel()
	}()
	n.serve(ctx, log)
	return nil
}

// serve keeps the programs running until ctx ends.
func (n node) serve(ctx context.Context, log *slog.Logger) {
	reaper := process.NewReaper()
	service := func(name string, args ...string) *process.Service {
		return process.NewService(process.Config{
			Name: name,
			Command: process.Command{Path: filepath.Join(programs, name), Args: args, Env: []string{
				"PATH=" + programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
			}},
			Log: os.Stderr, StopGrace: 2 * time.Second, Backoff: process.DefaultBackoff, Reaper: reaper, Logger: log,
		})
	}
	kubelet := service("kubelet", "--config=/etc/kubernetes/kubelet.json", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
		"--hostname-override="+n.Name, "--node-ip="+n.Address.String())
	kubelet.Before = awaitRuntime
	// The reaper outlives what it waits for; the end of this process ends it.
	go reaper.Run(context.WithoutCancel(ctx))
	var services sync.WaitGroup
	services.Go(func() { service("containerd", "--config", containerd.ConfigFile).Run(ctx) })
	services.Go(func() { kubelet.Run(ctx) })
	services.Go(func() { service("kube-proxy", "--config=/etc/kubernetes/kube-proxy.json").Run(ctx) })
	services.Wait()
}

// awaitRuntime waits for containerd's socket.
func awaitRuntime(ctx context.Context) error {
	for {
		if _, err := os.Stat(containerd.Socket); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
