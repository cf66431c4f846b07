package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// downTimeout bounds the cleaning up, which an interrupted run does too.
const downTimeout = 3 * time.Minute

// Config says which cluster the tests run on.
type Config struct {
	Name string // the cluster's
	Root string // Kip's source tree
	Dir  string // the tests write there
	// Keep leaves the cluster there afterwards, to look at it; a later run goes
	// on with it.
	Keep bool
	// ImageCache: the cluster has an image cache.
	ImageCache bool
	Progress   func(format string, args ...any)
}

// WithCluster runs f with the tests on a cluster of which the virtual node is
// the only one, without its taint, and removes the cluster, whatever became of f.
func WithCluster(ctx context.Context, c Config, f func(context.Context, Suite) error) (err error) {
	cluster, err := localcluster.Open(localcluster.Config{
		Name: c.Name, Dir: filepath.Join(c.Root, ".cache", "clusters", c.Name), Root: c.Root, Progress: c.Progress,
		Kip: localcluster.KipProcess, DisableTaint: true, NoOrdinaryNode: true, ImageCache: c.ImageCache,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	if c.Keep {
		c.Progress("the cluster stays: export KUBECONFIG=%s", cluster.Kubeconfig())
	} else {
		defer func() {
			down, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
			defer cancel()
			err = errors.Join(err, keepLog(cluster, c.Dir), cluster.Down(down))
		}()
	}
	suite := Suite{Kip: version(ctx, c.Root), Program: filepath.Join(c.Root, ".cache", "tools", "bin", "e2e.test"), Kubeconfig: cluster.Kubeconfig(), Dir: c.Dir}
	if err := cluster.Up(ctx); err != nil {
		return fmt.Errorf("starting the cluster: %w", err)
	}
	if err := suite.push(ctx, cluster, c.Root); err != nil {
		return err
	}
	return f(ctx, suite)
}

// version is that of the source tree.
func version(ctx context.Context, root string) string {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown" // a tree without its history
	}
	return strings.TrimSpace(string(out))
}

// push makes the tests' images and gives them to the cluster.
func (s Suite) push(ctx context.Context, cluster *localcluster.Cluster, root string) error {
	names, err := s.ImageNames(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cluster.Dir, "images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	images, err := Images(ctx, root, dir, names)
	if err != nil {
		return err
	}
	for name, image := range images {
		if err := cluster.Push(ctx, image, name); err != nil {
			return err
		}
	}
	return nil
}

// keepLog copies Kip's log to where the tests' are: the cluster's directory
// goes with the cluster.
func keepLog(cluster *localcluster.Cluster, dir string) error {
	log, err := os.ReadFile(cluster.LogPath(localcluster.Kip))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it did not come to that
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("kip-%s.log", time.Now().UTC().Format("20060102-150405"))), log, 0o600)
}
