package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// everything is a Deployment that uses what ordinary ones use.
const everything = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: sesame}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: worker}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: everything}
spec:
  selector: {matchLabels: {app: everything}}
  template:
    metadata: {labels: {app: everything}}
    spec:
      nodeSelector: {type: virtual-kubelet}
      tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
      serviceAccountName: worker
      terminationGracePeriodSeconds: 20
      initContainers:
      - name: prepare
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'echo prepared >/scratch/prepared']
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      - name: sidecar
        image: busybox
        imagePullPolicy: IfNotPresent
        restartPolicy: Always
        command: [sh, -c, 'cp /scratch/prepared /scratch/sidecar; trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command:
        - sh
        - -c
        - trap 'echo main got TERM; sleep 1; echo main ends; exit 0' TERM; echo main runs; while :; do sleep 1 & wait $!; done
        resources:
          requests: {cpu: 100m, memory: 64Mi}
        env:
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: settings, key: greeting}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: password, key: password}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
        readinessProbe:
          exec: {command: [test, -e, /scratch/sidecar]}
          periodSeconds: 1
        lifecycle:
          preStop: {exec: {command: [sh, -c, 'echo preStop ran >/proc/1/fd/1']}}
        volumeMounts:
        - {name: scratch, mountPath: /scratch}
        - {name: settings, mountPath: /settings}
        - {name: password, mountPath: /password}
        - {name: token, mountPath: /token}
      volumes:
      - {name: scratch, emptyDir: {}}
      - {name: settings, configMap: {name: settings}}
      - {name: password, secret: {secretName: password, defaultMode: 0400}}
      - name: token
        projected:
          sources:
          - serviceAccountToken: {path: token, audience: elsewhere, expirationSeconds: 900}
          - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
`

func TestDeployment(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(everything)
	s.kubectl("rollout", "status", "deployment/everything", "--timeout=90s")
	pod := s.podsOf("everything")[0]
	read := func(args ...string) string {
		t.Helper()
		return s.kubectl(append([]string{"exec", pod.Name, "-c", "main", "--"}, args...)...)
	}

	for what, c := range map[string]struct{ got, want string }{
		"the init container's file, through an emptyDir": {read("cat", "/scratch/prepared"), "prepared\n"},
		"the sidecar's file, made before main started":   {read("cat", "/scratch/sidecar"), "prepared\n"},
		"ConfigMap volume":                    {read("cat", "/settings/greeting"), "hello"},
		"Secret volume":                       {read("cat", "/password/password"), "sesame"},
		"mode of the Secret volume":           {read("stat", "-Lc", "%a", "/password/password"), "400\n"},
		"ConfigMap in the environment":        {read("sh", "-c", "echo $GREETING"), "hello\n"},
		"Secret in the environment":           {read("sh", "-c", "echo $PASSWORD"), "sesame\n"},
		"status.podIP":                        {read("sh", "-c", "echo $POD_IP"), pod.Status.PodIP + "\n"},
		"status.hostIP":                       {read("sh", "-c", "echo $HOST_IP"), pod.Status.HostIP + "\n"},
		"the address that the pod really has": {read("hostname", "-i"), pod.Status.PodIP + "\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", what, c.got, c.want)
		}
	}

	cell := s.cellOf(&pod)
	if pod.Status.PodIP != cell.Status.PodIP || pod.Status.HostIP != cell.Status.PrimaryIP || pod.Status.PodIP == pod.Status.HostIP {
		t.Errorf("pod IP %s and host IP %s, want the cell's own: %s and %s", pod.Status.PodIP, pod.Status.HostIP, cell.Status.PodIP, cell.Status.PrimaryIP)
	}
	t.Run("Token", func(t *testing.T) { checkToken(t, read("cat", "/token/token"), &pod) })
	if !strings.Contains(read("cat", "/token/ca.crt"), "BEGIN CERTIFICATE") {
		t.Error("the cluster's CA certificate is not in the projected volume")
	}

	s.kubectl("patch", "configmap", "settings", "-p", `{"data":{"greeting":"goodbye"}}`)
	took := s.eventually("the change of the ConfigMap reaches the pod", func(context.Context) error {
		if got := read("cat", "/settings/greeting"); got != "goodbye" {
			return fmt.Errorf("the file holds %q", got)
		}
		return nil
	})
	t.Logf("a change of a ConfigMap was in the pod's files after %.1f s (aim: 15 s)", took.Seconds())

	s.checkEnd(pod.Name)
}

// checkEnd scales the deployment to nothing and checks that the pod ended as
// its specification says: its hook first, then TERM, and then time to finish.
func (s *space) checkEnd(pod string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	logs := kubectlCommand(ctx, "-n", s.name, "logs", "-f", pod, "-c", "main")
	var out strings.Builder
	logs.Stdout = &out
	if err := logs.Start(); err != nil {
		s.Fatal(err)
	}
	s.kubectl("scale", "deployment/everything", "--replicas=0")
	if err := logs.Wait(); err != nil {
		s.Errorf("following the log to its end: %v", err)
	}
	if want := "main runs\npreStop ran\nmain got TERM\nmain ends\n"; out.String() != want {
		s.Errorf("the log of a pod that ended is\n%s\nwant\n%s", out.String(), want)
	}
	s.awaitGone(pod)
}

// checkToken reads the claims of a service account's token.
func checkToken(t *testing.T, token string, pod *corev1.Pod) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts, want a JWT", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Audience []string `json:"aud"`
		Subject  string   `json:"sub"`
		Issued   int64    `json:"iat"`
		Expires  int64    `json:"exp"`
		Bound    struct {
			Pod struct {
				Name, UID string
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if len(claims.Audience) != 1 || claims.Audience[0] != "elsewhere" {
		t.Errorf("audiences %q, want elsewhere", claims.Audience)
	}
	if want := "system:serviceaccount:" + pod.Namespace + ":worker"; claims.Subject != want {
		t.Errorf("subject %q, want %q", claims.Subject, want)
	}
	if claims.Bound.Pod.UID != string(pod.UID) {
		t.Errorf("bound to pod %q, want %q", claims.Bound.Pod.UID, pod.UID)
	}
	if life := claims.Expires - claims.Issued; life != 900 {
		t.Errorf("it lives for %d s, want 900", life)
	}
}

// Each kind of probe decides about readiness, and a failed liveness probe
// restarts its container only.
func TestProbes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	state := corev1.VolumeMount{Name: "state", MountPath: "/state"}
	probe := func(h corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5}
	}
	file := func(name string) *corev1.Probe {
		return probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/state/" + name}}})
	}
	server := program("server", "serve")
	server.ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: port(8080)}})
	// Probes of one container take turns; these two containers do nothing else.
	tcp, grpc := shell("tcp", forever), shell("grpc", forever)
	tcp.ReadinessProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port(9090)}})
	grpc.ReadinessProbe = probe(corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 9091}})
	exec := shell("exec", forever)
	exec.ReadinessProbe = file("exec")
	mortal := shell("mortal", forever)
	mortal.LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "! rm /state/kill"}}})

	pod := newPod("probes", server, tcp, grpc, exec, mortal)
	pod.Spec.Volumes = []corev1.Volume{{Name: "state", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].VolumeMounts = []corev1.VolumeMount{state}
	}
	s.create(pod)

	ready := func(want ...string) func(*corev1.Pod) error {
		return func(pod *corev1.Pod) error {
			if len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) {
				return errors.New("its containers were not started")
			}
			got := map[string]bool{}
			for _, c := range pod.Status.ContainerStatuses {
				if c.State.Running == nil {
					return fmt.Errorf("%s does not run: %s", c.Name, conditions(pod))
				}
				if c.Ready {
					got[c.Name] = true
				}
			}
			delete(got, "mortal")
			for _, name := range want {
				if !got[name] {
					return fmt.Errorf("%s is not ready", name)
				}
				delete(got, name)
			}
			if len(got) > 0 {
				return fmt.Errorf("ready too soon: %v", got)
			}
			return nil
		}
	}
	s.awaitPod("probes", "nothing is ready", ready())
	var done []string
	for _, kind := range []struct{ file, container string }{{"http", "server"}, {"tcp", "tcp"}, {"grpc", "grpc"}, {"exec", "exec"}} {
		s.kubectl("exec", "probes", "-c", "exec", "--", "touch", "/state/"+kind.file)
		done = append(done, kind.container)
		s.awaitPod("probes", kind.container+" is ready", ready(done...))
	}
	before := s.awaitReady("probes")

	s.kubectl("exec", "probes", "-c", "exec", "--", "touch", "/state/kill")
	s.awaitPod("probes", "the container whose liveness probe failed runs again", func(pod *corev1.Pod) error {
		for i, c := range pod.Status.ContainerStatuses {
			restarts := c.RestartCount - before.Status.ContainerStatuses[i].RestartCount
			if c.Name != "mortal" && restarts > 0 {
				t.Fatalf("%s restarted", c.Name)
			}
			if c.Name == "mortal" && (restarts != 1 || c.State.Running == nil) {
				return fmt.Errorf("it restarted %d times", restarts)
			}
		}
		return nil
	})
}

// A pod that does not end when asked to is killed when its grace period is
// over, and not before.
func TestGracePeriod(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("stubborn", shell("stubborn", `trap '' TERM; while :; do sleep 1; done`))
	grace := int64(4)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	s.start(pod)
	if took := s.delete("stubborn"); took < 3500*time.Millisecond {
		t.Errorf("it was gone after %s, its grace period is %d s", took, grace)
	}
}

// Scaling gives every pod a cell of its own, and takes cell and instance away
// with the pod.
func TestScale(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {type: virtual-kubelet}
      tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
        resources: {requests: {cpu: 50m, memory: 32Mi}}
`)
	s.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	first := s.podsOf("web")[0].UID
	s.kubectl("scale", "deployment/web", "--replicas=5")
	s.kubectl("rollout", "status", "deployment/web", "--timeout=90s")

	pods := s.podsOf("web")
	if len(pods) != 5 {
		t.Fatalf("%d pods, want 5", len(pods))
	}
	kept := false
	own := map[string]string{}
	var cells []*v1beta1.Cell
	for i := range pods {
		kept = kept || pods[i].UID == first
		cell := s.cellOf(&pods[i])
		cells = append(cells, cell)
		for what, value := range map[string]string{
			"cell": cell.Name, "instance": cell.Status.InstanceID, "pod IP": pods[i].Status.PodIP, "host IP": pods[i].Status.HostIP,
		} {
			if value == "" || own[what+value] != "" {
				t.Errorf("pods %s and %s share the %s %q", pods[i].Name, own[what+value], what, value)
			}
			own[what+value] = pods[i].Name
		}
	}
	if !kept {
		t.Error("the first pod did not survive scaling up")
	}

	s.kubectl("scale", "deployment/web", "--replicas=0")
	took := s.eventually("cells and instances go with their pods", func(ctx context.Context) error {
		living, err := shared.cloud.living(ctx)
		if err != nil {
			return err
		}
		var left []string
		for _, cell := range cells {
			if _, lives := living[cell.Status.InstanceID]; lives {
				left = append(left, cell.Status.InstanceID)
			}
		}
		var now v1beta1.CellList
		if err := shared.cells.List(ctx, &now); err != nil {
			return err
		}
		for _, cell := range now.Items {
			if own["cell"+cell.Name] != "" {
				left = append(left, cell.Name)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
	t.Logf("5 pods, their cells and instances were gone %.1f s after scaling to 0", took.Seconds())
}

// The instance type is the cheapest that fits, by a search of this test's own.
func TestCheapestInstanceType(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	search := newSearch(t)
	spot := map[string]string{"pod.elotl.co/launch-type": "spot"}
	var wait sync.WaitGroup
	for name, c := range map[string]struct {
		cpu, memory string
		annotations map[string]string
	}{
		"tiny":     {cpu: "50m", memory: "32Mi"},
		"cpu":      {cpu: "1900m", memory: "256Mi"},
		"memory":   {cpu: "250m", memory: "7Gi"},
		"large":    {cpu: "6", memory: "30Gi"},
		"spot":     {cpu: "1", memory: "3Gi", annotations: spot},
		"selected": {cpu: "100m", memory: "64Mi", annotations: map[string]string{"pod.elotl.co/instance-type": "m6i.*"}},
	} {
		container := shell("c", forever)
		container.Resources = requests(c.cpu, c.memory)
		pod := newPod(name, container)
		pod.Annotations = c.annotations
		made := s.create(pod)
		wait.Go(func() {
			var cell *v1beta1.Cell
			err := poll(t.Context(), patience, func(ctx context.Context) error {
				var err error
				cell, err = findCell(ctx, made)
				if err == nil && cell.Status.InstanceID == "" {
					err = errors.New("no instance was launched")
				}
				return err
			})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			l := cell.Status.Launch
			want := search.cheapest(pod)
			got := choice{Type: l.InstanceType, Capacity: string(l.CapacityType), USD: l.HourlyUSD}
			if got != want {
				t.Errorf("%s (%s, %s): launched %+v, the cheapest that fits is %+v", name, c.cpu, c.memory, got, want)
			}
			t.Logf("%s: %s vCPU, %s: %s, %s at %s USD per hour", name, c.cpu, c.memory, l.InstanceType, l.CapacityType, l.HourlyUSD)
		})
	}
	wait.Wait()

	t.Run("Table", func(t *testing.T) {
		table := strings.Split(s.kubectl("get", "cells"), "\n")
		want := "NAME POD NAMESPACE NODE PHASE INSTANCE-TYPE CAPACITY-TYPE ZONE USD/HOUR INSTANCE-ID IP AGE"
		if got := strings.Join(strings.Fields(table[0]), " "); got != want {
			t.Errorf("the columns are\n%s\nwant\n%s", got, want)
		}
		for _, row := range table[1:] {
			if cells := strings.Fields(row); len(cells) > 2 && cells[1] == "selected" && cells[2] == s.name {
				if len(cells) != 12 || !strings.HasPrefix(cells[5], "m6i.") || !strings.HasPrefix(cells[9], "i-") {
					t.Errorf("a row is %q", row)
				}
				return
			}
		}
		t.Errorf("no row for the pod in\n%s", strings.Join(table, "\n"))
	})
}

// podsOf are the pods with the label app that are not being deleted.
func (s *space) podsOf(app string) []corev1.Pod {
	s.Helper()
	list, err := shared.kube.CoreV1().Pods(s.name).List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		s.Fatal(err)
	}
	var pods []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods
}
