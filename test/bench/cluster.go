package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

const (
	clusterName = "bench"
	// namespace holds the measured pods.
	namespace = "bench"

	// downTimeout bounds the cleaning up, which an interrupted run does too.
	downTimeout = 3 * time.Minute
)

// patience bounds every wait for something that takes seconds. A computer that
// is emulated, and a pull of gigabytes, take minutes.
var patience = 2 * time.Minute

// bench is a running cluster and what reads it.
type bench struct {
	*localcluster.Cluster
	config   *rest.Config
	kube     kubernetes.Interface
	cells    client.Client
	progress func(format string, args ...any)
}

// withCluster runs f on a fresh cluster and removes it, whatever became of f.
func withCluster(ctx context.Context, cfg localcluster.Config, progress func(string, ...any), f func(context.Context, *bench) error) (err error) {
	cfg.Name, cfg.Dir, cfg.Progress = clusterName, filepath.Join(cfg.Root, ".cache", "clusters", clusterName), progress
	cfg.Kip = localcluster.KipProcess // its log tells when it did what
	if _, err := os.Stat(cfg.Dir); err == nil {
		progress("removing what an earlier run left")
		if err := removeCluster(ctx, cfg); err != nil {
			return err
		}
	}
	cluster, err := localcluster.Open(cfg)
	if err != nil {
		return err
	}
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		err = errors.Join(err, cluster.Down(down), cluster.Close())
	}()
	if err := cluster.Up(ctx); err != nil {
		return fmt.Errorf("starting the cluster: %w", err)
	}
	b := &bench{Cluster: cluster, progress: progress}
	if b.config, b.kube, err = cluster.Client(); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return err
	}
	if b.cells, err = client.New(b.config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	if err := b.makeNamespace(ctx); err != nil {
		return fmt.Errorf("making namespace %s: %w", namespace, err)
	}
	return f(ctx, b)
}

func removeCluster(ctx context.Context, cfg localcluster.Config) error {
	cluster, err := localcluster.Open(cfg)
	if err != nil {
		return err
	}
	return errors.Join(cluster.Down(ctx), cluster.Close())
}

// makeNamespace waits for its service account too: no pod can be made before.
func (b *bench) makeNamespace(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := b.kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	return await(ctx, "its service account", func(ctx context.Context) (bool, error) {
		_, err := b.kube.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// await repeats a look until it is true or fails.
func await(ctx context.Context, what string, look func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := look(ctx)
		if err != nil || done {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// awaitNoCells waits until every instance of Kip is gone, so that the end of
// one measurement does not disturb the next.
func (b *bench) awaitNoCells(ctx context.Context) error {
	return await(ctx, "the end of the cells", func(ctx context.Context) (bool, error) {
		var cells v1beta1.CellList
		err := b.cells.List(ctx, &cells)
		return len(cells.Items) == 0, err
	})
}

// useImages has Kip launch cells from the images of that name from now on.
func (b *bench) useImages(ctx context.Context, name string) error {
	return b.reconfigure(ctx, "name=kip-cell-*", "name="+name)
}

// keepStandby has Kip keep so many standby cells of a type.
func (b *bench) keepStandby(ctx context.Context, instanceType string, count int) error {
	return b.reconfigure(ctx, "\ncells:\n", fmt.Sprintf("\ncells:\n  standbyCells: [{instanceType: %s, count: %d}]\n", instanceType, count))
}

// keepNoStandby undoes keepStandby.
func (b *bench) keepNoStandby(ctx context.Context, instanceType string, count int) error {
	return b.reconfigure(ctx, fmt.Sprintf("  standbyCells: [{instanceType: %s, count: %d}]\n", instanceType, count), "")
}

// reconfigure has Kip run with another provider.yaml.
func (b *bench) reconfigure(ctx context.Context, from, to string) error {
	path := filepath.Join(b.Dir, "provider.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := bytes.Replace(config, []byte(from), []byte(to), 1)
	if bytes.Equal(changed, config) {
		return fmt.Errorf("%s does not say %q", path, from)
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		return err
	}
	return b.Start(ctx, localcluster.Kip)
}

// machine is an instance as this machine sees it.
type machine struct {
	id string
	// init is the process ID, on this machine, of the instance's first process.
	init int
	// root is the instance's root directory, but for what is mounted there.
	root string
}

func (b *bench) machine(id string) (machine, error) {
	dir := filepath.Join(b.Dir, "ec2", "machines", id)
	data, err := os.ReadFile(filepath.Join(dir, "process.json"))
	if err != nil {
		return machine{}, fmt.Errorf("finding instance %s: %w", id, err)
	}
	var process struct{ PID int }
	if err := json.Unmarshal(data, &process); err != nil {
		return machine{}, fmt.Errorf("finding instance %s: %w", id, err)
	}
	return machine{id, process.PID, filepath.Join(dir, "root")}, nil
}
