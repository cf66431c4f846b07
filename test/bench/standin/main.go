// Command standin stands in for kubelet and containerd in cells of a burst: it
// does nothing until it is ended. As containerd it has a socket, since the
// agent looks for that often until it is there.
package main

import (
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/elotl/kip/v2/internal/agent/containerd"
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	if filepath.Base(os.Args[0]) == "containerd" {
		if err := listen(containerd.Socket); err != nil {
			slog.Error("standing in for containerd", "err", err)
			os.Exit(1)
		}
	}
	<-ended
}

// listen makes a socket at which nobody answers.
func listen(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	_, err := net.Listen("unix", path)
	return err
}
