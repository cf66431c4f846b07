// Command plainnode is the init of an ordinary Kubernetes node: it runs stock
// containerd and a stock kubelet that registers itself, and nothing of Kip's.
// The benchmark launches it beside the cells, to compare with. All
// configuration is in the image.
package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/agent/containerd"
	"github.com/elotl/kip/v2/internal/agent/machine"
	"github.com/elotl/kip/v2/internal/agent/process"
)

const programs = "/opt/kip/bin"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := machine.Prepare(); err != nil {
		log.Error("the machine cannot be a node", "err", err)
		machine.PowerOff(log)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	signals := machine.PowerOffSignals()
	go func() {
		<-signals
		cancel()
	}()
	run(ctx, log)
	machine.PowerOff(log)
}

// run keeps both programs running until ctx ends.
func run(ctx context.Context, log *slog.Logger) {
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
	kubelet := service("kubelet", "--config=/etc/bench/kubelet.json", "--kubeconfig=/etc/bench/kubeconfig", "--hostname-override=plain")
	kubelet.Before = func(ctx context.Context) error {
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
	// The reaper outlives what it waits for; the end of this process ends it.
	go reaper.Run(context.WithoutCancel(ctx))
	var services sync.WaitGroup
	services.Go(func() { service("containerd", "--config", containerd.ConfigFile).Run(ctx) })
	services.Go(func() { kubelet.Run(ctx) })
	services.Wait()
}
