package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// busy is a Deployment whose pods use as much CPU as they may until they are
// told to be idle, and an autoscaler that wants a fifth of what they ask
// for, which they get on the busiest machine. It scales down without the usual
// five minutes of thought.
const busy = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      nodeSelector: {type: virtual-kubelet}
      tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'trap exit TERM; while :; do if [ -e /tmp/idle ]; then sleep 1; fi; done']
        resources:
          requests: {cpu: 100m, memory: 32Mi}
          limits: {cpu: 200m}
        readinessProbe: {exec: {command: ["true"]}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 20}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`

// metricsPatience is for what takes a cell's report, two scrapes of
// metrics-server and a look of the autoscaler, each 15 seconds apart, and on a
// busy machine longer.
const metricsPatience = 4 * time.Minute

// TestPodMetrics: what pods on cells use, through metrics-server, which checks
// Kip's certificate and has a right to metrics only, and by the API server's
// proxy. An autoscaler acts by it, up and down.
func TestPodMetrics(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(busy)
	s.kubectl("rollout", "status", "deployment/busy", "--timeout=90s")
	first := s.podsOf("busy")[0]

	took := s.within(metricsPatience, "kubectl top pods shows the busy pod", func(context.Context) error {
		return s.top(first.Name, func(cpu int) error {
			if cpu < 30 {
				return fmt.Errorf("it uses %dm of CPU", cpu)
			}
			return nil
		})
	})
	t.Logf("kubectl top pods shows a pod's use %.0f s after it was ready", took.Seconds())
	s.within(metricsPatience, "kubectl top nodes shows both nodes", func(context.Context) error {
		out, _ := s.tryKubectl("", "top", "nodes", "--no-headers")
		for _, node := range []string{localcluster.NodeName, localcluster.OrdinaryNode} {
			if !regexp.MustCompile(`(?m)^` + node + ` +\d+m +\d+% +\d+Mi +\d+%`).MatchString(out) {
				return fmt.Errorf("%s is not in\n%s", node, out)
			}
		}
		return nil
	})
	t.Run("KubeletAPI", func(t *testing.T) { checkKubeletMetrics(&space{t, s.name}, &first) })

	s.within(metricsPatience, "the autoscaler adds a pod, on a cell of its own", func(ctx context.Context) error {
		if err := s.replicas(ctx, 2); err != nil {
			return err
		}
		cells := map[string]bool{}
		for _, pod := range s.podsOf("busy") {
			cell, err := findCell(ctx, &pod)
			if err != nil {
				return err
			}
			cells[cell.Name] = true
		}
		if len(cells) != 2 {
			return fmt.Errorf("the pods are on %v", cells)
		}
		return nil
	})
	for _, pod := range s.podsOf("busy") {
		s.kubectl("exec", pod.Name, "--", "touch", "/tmp/idle")
	}
	s.within(metricsPatience, "and takes one away when they are idle", func(ctx context.Context) error { return s.replicas(ctx, 1) })
	left := s.podsOf("busy")
	s.within(metricsPatience, "the pod that is left is seen to be idle", func(context.Context) error {
		return s.top(left[0].Name, func(cpu int) error {
			if cpu > 20 {
				return fmt.Errorf("it uses %dm of CPU", cpu)
			}
			return nil
		})
	})
}

// top looks at what kubectl top says of a pod, in thousandths of a CPU.
func (s *space) top(pod string, check func(cpu int) error) error {
	s.Helper()
	out, code := s.tryKubectl("", "top", "pods", "--no-headers")
	if code != 0 {
		return errors.New(out)
	}
	for line := range strings.Lines(out) {
		var name string
		var cpu, memory int
		if n, _ := fmt.Sscanf(line, "%s %dm %dMi", &name, &cpu, &memory); n == 3 && name == pod {
			return check(cpu)
		}
	}
	return fmt.Errorf("%s is not in\n%s", pod, out)
}

// replicas is nil when the Deployment has so many pods, all ready.
func (s *space) replicas(ctx context.Context, want int32) error {
	d, err := shared.kube.AppsV1().Deployments(s.name).Get(ctx, "busy", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if d.Status.Replicas != want || d.Status.ReadyReplicas != want {
		hpa, err := shared.kube.AutoscalingV2().HorizontalPodAutoscalers(s.name).Get(ctx, "busy", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return fmt.Errorf("it has %d, of which %d are ready; the autoscaler: %+v", d.Status.Replicas, d.Status.ReadyReplicas, hpa.Status)
	}
	return nil
}

// checkKubeletMetrics reads Kip's kubelet API as anybody does who may.
func checkKubeletMetrics(s *space, pod *corev1.Pod) {
	read := func(path string) string {
		s.Helper()
		return s.kubectl("get", "--raw", "/api/v1/nodes/"+localcluster.NodeName+"/proxy"+path)
	}
	series := `namespace="` + s.name + `",pod="` + pod.Name + `"`
	for path, want := range map[string][]string{
		"/metrics":          {"kip_cells_connected "},
		"/metrics/resource": {`container_cpu_usage_seconds_total{container="main",` + series + `} `, `pod_memory_working_set_bytes{` + series + `} `, "\nnode_cpu_usage_seconds_total "},
		"/metrics/cadvisor": {`container_memory_usage_bytes{container="main",id="/`, "# TYPE container_network_receive_bytes_total counter\n"},
		"/metrics/probes":   {`prober_probe_total{container="main",` + series},
	} {
		text := read(path)
		for _, w := range want {
			if !strings.Contains(text, w) {
				s.Errorf("%s has no %q", path, w)
			}
		}
		types := map[string]bool{}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "# TYPE ") {
				if types[line] {
					s.Errorf("%s: %s comes twice", path, line)
				}
				types[line] = true
			}
			if strings.HasPrefix(line, "machine_") || strings.Contains(line, `id="/"`) {
				s.Errorf("%s tells of an instance: %s", path, line)
			}
		}
	}
	var summary statsv1alpha1.Summary
	if err := json.Unmarshal([]byte(read("/stats/summary")), &summary); err != nil {
		s.Fatal(err)
	}
	var own *statsv1alpha1.PodStats
	for i := range summary.Pods {
		if summary.Pods[i].PodRef.UID == string(pod.UID) {
			own = &summary.Pods[i]
		}
	}
	if own == nil || own.CPU == nil || own.Memory == nil || len(own.Containers) != 1 || own.Containers[0].Name != "main" {
		s.Errorf("/stats/summary says of the pod: %+v", own)
	}
	if summary.Node.NodeName != localcluster.NodeName || summary.Node.CPU == nil || summary.Node.Memory == nil {
		s.Errorf("/stats/summary says of the node: %+v", summary.Node)
	}
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(read("/pods")), &pods); err != nil {
		s.Fatal(err)
	}
	found := false
	for _, p := range pods.Items {
		found = found || p.UID == pod.UID
	}
	if !found {
		s.Errorf("/pods lists %d pods, and not the one", len(pods.Items))
	}
}
