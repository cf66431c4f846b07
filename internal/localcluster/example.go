package localcluster

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/ociimage"
)

const (
	// PauseImage is the sandbox image that Kip's default names.
	PauseImage   = "registry.k8s.io/pause:3.10.1"
	ExampleImage = "docker.io/elotl/kip-example-web:latest"

	// exampleTimeout is generous: a cold machine needs seconds.
	exampleTimeout = 5 * time.Minute
)

// pushImages puts the images that the cluster itself needs into its registry.
func (c *Cluster) pushImages(ctx context.Context) error {
	for name, spec := range map[string]ociimage.Spec{
		PauseImage:   {Files: map[string]string{"/pause": c.bin("pause")}, Entrypoint: []string{"/pause"}},
		ExampleImage: {Files: map[string]string{"/web": c.bin("example-web")}, Entrypoint: []string{"/web"}},
	} {
		image, err := ociimage.Build(spec)
		if err != nil {
			return err
		}
		if err := c.Push(ctx, image, name); err != nil {
			return err
		}
	}
	return nil
}

// Example deploys the example and waits until its pods are Ready.
func (c *Cluster) Example(ctx context.Context) error {
	if err := c.kubectl(ctx, "apply", "-f", filepath.Join(c.Root, "examples", "web", "web.yaml")); err != nil {
		return fmt.Errorf("deploying the example: %w", err)
	}
	_, kube, err := c.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, exampleTimeout)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	told := map[string]string{}
	for {
		deployment, err := kube.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("looking at the example: %w", err)
		}
		want := *deployment.Spec.Replicas
		if s := deployment.Status; s.ObservedGeneration >= deployment.Generation && s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
			return nil
		}
		pods, err := kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return fmt.Errorf("looking at the example's pods: %w", err)
		}
		for i := range pods.Items {
			if now := waitingFor(&pods.Items[i]); told[pods.Items[i].Name] != now {
				told[pods.Items[i].Name] = now
				c.Progress("pod %s: %s", pods.Items[i].Name, now)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the example is not ready: %w; kubectl --kubeconfig %s describe pods says more", ctx.Err(), c.Kubeconfig())
		case <-tick.C:
		}
	}
}

// waitingFor says in a few words what a pod waits for.
func waitingFor(pod *corev1.Pod) string {
	cell, ready := "it has no node yet", false
	for _, cond := range pod.Status.Conditions {
		switch cond.Type {
		case v1beta1.PodConditionCellReady:
			cell = cond.Message
		case corev1.PodReady:
			ready = cond.Status == corev1.ConditionTrue
		}
	}
	if ready {
		return "Ready"
	}
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Message != "" {
			return w.Reason + ": " + w.Message
		}
	}
	return cell
}

// reader is the administrator's client for Kip's own types.
func (c *Cluster) reader() (client.Client, error) {
	config, _, err := c.Client()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// printExample shows where the example's pods run and what to type next.
func (c *Cluster) printExample(ctx context.Context, w io.Writer) error {
	reader, err := c.reader()
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := reader.List(ctx, &pods, client.InNamespace("default"), client.MatchingLabels{"app": "web"}); err != nil {
		return fmt.Errorf("listing the example's pods: %w", err)
	}
	var cells v1beta1.CellList
	if err := reader.List(ctx, &cells); err != nil {
		return fmt.Errorf("listing cells: %w", err)
	}
	byPod := map[types.UID]*v1beta1.Cell{}
	for i := range cells.Items {
		if ref := cells.Items[i].Spec.Pod; ref != nil {
			byPod[ref.UID] = &cells.Items[i]
		}
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "POD\tCELL\tINSTANCE TYPE\tZONE\tUSD/HOUR\tIP")
	for _, pod := range pods.Items {
		cell := byPod[pod.UID]
		if cell == nil || cell.Status.Launch == nil {
			continue
		}
		l := cell.Status.Launch
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", pod.Name, cell.Name, l.InstanceType, l.Zone, l.HourlyUSD, pod.Status.PodIP)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nNext:  export KUBECONFIG=%s PATH=%s:$PATH; kubectl get pods,cells\n", c.Kubeconfig(), filepath.Dir(c.tool("kubectl")))
	return err
}

// printCells shows all cells and the sum of their prices.
func (c *Cluster) printCells(ctx context.Context, w io.Writer) error {
	reader, err := c.reader()
	if err != nil {
		return err
	}
	var cells v1beta1.CellList
	if err := reader.List(ctx, &cells); err != nil {
		return fmt.Errorf("listing cells: %w", err)
	}
	sum := 0.0
	for _, cell := range cells.Items {
		if cell.Status.Launch == nil || cell.Status.InstanceID == "" {
			continue
		}
		price, err := strconv.ParseFloat(cell.Status.Launch.HourlyUSD, 64)
		if err != nil {
			return fmt.Errorf("price of cell %s: %w", cell.Name, err)
		}
		sum += price
	}
	_, err = fmt.Fprintf(w, "\n%d cells, USD %.4f an hour\n", len(cells.Items), sum)
	return err
}
