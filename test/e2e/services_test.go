package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// webServices are in front of the pods web-a and web-b, each on its cell, and
// web-node, on the ordinary node; and of web-host, in its cell's own network.
const webServices = `
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [
    {name: http, port: 80, targetPort: http}, {name: udp, port: 80, targetPort: 8080, protocol: UDP}]}}
- {apiVersion: v1, kind: Service, metadata: {name: sticky}, spec: {selector: {app: web}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: only-a}, spec: {selector: {name: web-a}, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: only-b}, spec: {selector: {name: web-b}, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: only-node}, spec: {selector: {name: web-node}, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: only-host}, spec: {selector: {name: web-host}, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: inside}, spec: {selector: {app: web}, internalTrafficPolicy: Local, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}
- {apiVersion: v1, kind: Service, metadata: {name: outside-local}, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}
`

// serving is a pod of the test program, with a port that Services name.
func serving(name, app string) *corev1.Pod {
	server := program("server", "serve", "-state", "/")
	server.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	pod := newPod(name, server)
	pod.Labels = map[string]string{"app": app, "name": name}
	return pod
}

// onOrdinaryNode sends a pod to node-0 instead of a cell.
func onOrdinaryNode(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: localcluster.OrdinaryNode}
	pod.Spec.Tolerations = nil
	return pod
}

// get asks from within a pod, several times on as many connections, and returns
// the different answers in order.
func (s *space) get(pod, url string, times int) ([]string, error) {
	s.Helper()
	out, code := s.tryKubectl("", "exec", pod, "--", "/testimage", "get", "-n", fmt.Sprint(times), url)
	if code != 0 {
		return nil, errors.New(out)
	}
	answers := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(answers)
	return slices.Compact(answers), nil
}

// answers waits until what is asked from within a pod is answered with just
// these answers.
func (s *space) answers(pod, url string, times int, want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s asks %s", pod, url), func(context.Context) error {
		got, err := s.get(pod, url, times)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the answers are %q, want %q", got, want)
		}
		return err
	})
}

// fetch asks from this machine, which is one more address of the VPC.
func fetch(ctx context.Context, host string, port int32, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s", net.JoinHostPort(host, fmt.Sprint(port)), path), nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

func (s *space) service(name string) *corev1.Service {
	s.Helper()
	service, err := shared.kube.CoreV1().Services(s.name).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return service
}

// Services lead from cells to cells and to the ordinary node, and from there to
// cells: by every kind of address that Services have.
func TestServices(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(webServices)
	s.create(serving("web-a", "web"))
	gated := serving("web-b", "web")
	gated.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: port(8080)}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	// The test image has no shell: another container opens and shuts the gate.
	gated.Spec.Containers[0].Args = []string{"serve", "-state", "/gate"}
	gate := shell("gate", "touch /gate/http; "+forever)
	gated.Spec.Volumes = []corev1.Volume{{Name: "gate", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	mount := []corev1.VolumeMount{{Name: "gate", MountPath: "/gate"}}
	gated.Spec.Containers[0].VolumeMounts, gate.VolumeMounts = mount, mount
	gated.Spec.Containers = append(gated.Spec.Containers, gate)
	s.create(gated)
	s.create(onOrdinaryNode(serving("web-node", "web")))
	host := serving("web-host", "host")
	host.Spec.HostNetwork = true
	host.Spec.DNSPolicy = corev1.DNSClusterFirstWithHostNet
	s.create(host)
	// A user of the cluster's Services beside the machines that have their pods.
	s.create(onOrdinaryNode(serving("client", "client")))
	pods := map[string]*corev1.Pod{}
	for _, name := range []string{"web-a", "web-b", "web-node", "web-host", "client"} {
		pods[name] = s.awaitReady(name)
	}
	all := []string{"hello from web-a", "hello from web-b", "hello from web-node"}

	t.Run("Side by side", func(t *testing.T) {
		for name, check := range map[string]func(s *space){
			"ClusterIP": func(s *space) {
				for _, client := range []string{"web-a", "web-host", "web-node", "client"} {
					s.answers(client, "http://"+s.service("web").Spec.ClusterIP+"/hello", 15, all...)
				}
				s.answers("client", "http://only-a/hello", 1, "hello from web-a")
				s.answers("web-a", "http://only-node/hello", 1, "hello from web-node")
			},
			"Datagrams": func(s *space) {
				for _, client := range []string{"web-a", "client"} {
					s.eventually(client+" asks over UDP", func(context.Context) error {
						out, code := s.tryKubectl("", "exec", client, "--", "/testimage", "ask", "web:80")
						if code != 0 || !slices.Contains(all, strings.TrimSpace(out)) {
							return errors.New(out)
						}
						return nil
					})
				}
			},
			"Itself": func(s *space) {
				s.answers("web-a", "http://only-a/hello", 3, "hello from web-a")
			},
			"In the cell's network": func(s *space) {
				address := pods["web-host"].Status.HostIP
				for _, client := range []string{"web-a", "client", "web-host"} {
					s.answers(client, "http://only-host/client", 1, pods[client].Status.PodIP)
				}
				if got, err := fetch(s.Context(), address, 8080, "/hello"); err != nil || !strings.HasPrefix(got, "hello from ") {
					s.Errorf("the host-network pod at the cell's address: %q (%v)", got, err)
				}
			},
			"SessionAffinity": func(s *space) {
				for _, client := range []string{"web-a", "web-host", "client"} {
					var first []string
					s.eventually(client+" is answered", func(context.Context) (err error) {
						first, err = s.get(client, "http://sticky/hello", 12)
						return err
					})
					if len(first) != 1 {
						s.Errorf("%s was answered by several: %q", client, first)
						continue
					}
					s.answers(client, "http://sticky/hello", 8, first...)
				}
			},
			"InternalTrafficPolicy": func(s *space) {
				s.answers("web-a", "http://inside/hello", 12, "hello from web-a")
				s.answers("client", "http://inside/hello", 12, "hello from web-node")
				if got, err := s.get("web-host", "http://inside/hello", 1); err == nil {
					s.Errorf("in a cell without an endpoint %q answered", got)
				}
			},
			"NodePort": func(s *space) {
				nodePort := s.service("outside").Spec.Ports[0].NodePort
				for where, address := range map[string]string{
					"a cell with an endpoint": pods["web-a"].Status.HostIP, "a cell without": pods["web-host"].Status.HostIP,
					"the ordinary node": pods["web-node"].Status.HostIP,
				} {
					for _, client := range []string{"web-a", "web-host", "client"} {
						s.answers(client, fmt.Sprintf("http://%s:%d/hello", address, nodePort), 15, all...)
					}
					if got, err := fetch(s.Context(), address, nodePort, "/hello"); err != nil || !slices.Contains(all, got) {
						s.Errorf("this machine at %s: %q (%v)", where, got, err)
					}
				}
			},
			"ExternalTrafficPolicy": func(s *space) {
				nodePort := s.service("outside-local").Spec.Ports[0].NodePort
				// From another machine: what a node's own pods ask of it does not
				// come from outside.
				for name, client := range map[string]string{"web-a": "client", "web-b": "web-a", "web-node": "web-a"} {
					url := fmt.Sprintf("http://%s:%d", pods[name].Status.HostIP, nodePort)
					s.answers(client, url+"/hello", 12, "hello from "+name)
					// Nobody on the way stands in for the client.
					s.answers(client, url+"/client", 1, pods[client].Status.PodIP)
				}
				if got, err := fetch(s.Context(), pods["web-host"].Status.HostIP, nodePort, "/hello"); err == nil {
					s.Errorf("at a cell without an endpoint %q answered", got)
				}
			},
			"Kernel": func(s *space) {
				cell := machineOf(s.T, s.cellOf(pods["web-a"]))
				if log := string(cell.read(s.T, "/var/log/kip/kube-proxy.log")); !strings.Contains(log, "nftables") {
					s.Errorf("kube-proxy does not speak of nftables:\n%s", log)
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				check(&space{t, s.name})
			})
		}
	})

	t.Run("Readiness", func(t *testing.T) {
		s := &space{t, s.name}
		for _, client := range []string{"web-a", "client"} {
			s.answers(client, "http://only-b/hello", 1, "hello from web-b")
		}
		s.kubectl("exec", "web-b", "-c", "gate", "--", "rm", "/gate/http")
		for _, client := range []string{"web-a", "client"} {
			s.eventually(client+" is refused", func(context.Context) error {
				switch got, err := s.get(client, "http://only-b/hello", 1); {
				case err == nil:
					return fmt.Errorf("it is answered %q", got)
				case !strings.Contains(err.Error(), "refused"):
					return err
				}
				return nil
			})
			s.answers(client, "http://web/hello", 12, "hello from web-a", "hello from web-node")
		}
		s.kubectl("exec", "web-b", "-c", "gate", "--", "touch", "/gate/http")
		for _, client := range []string{"web-a", "client"} {
			s.answers(client, "http://only-b/hello", 1, "hello from web-b")
		}
	})

	// As on a cell whose kernel has no nftables, and its agent chose iptables.
	t.Run("IPTables", func(t *testing.T) {
		s := &space{t, s.name}
		cell := machineOf(t, s.cellOf(pods["web-a"]))
		const file = "/etc/kip/kubernetes/kube-proxy.json"
		config := cell.read(t, file)
		other := bytes.Replace(config, []byte(`"mode": "nftables"`), []byte(`"mode": "iptables"`), 1)
		if bytes.Equal(config, other) {
			t.Fatalf("kube-proxy is not configured for nftables: %s", config)
		}
		cell.write(t, file, other)
		for _, pid := range cell.processes(t, "kube-proxy") {
			// One that starts nft has its name until it does, and may be gone by now.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}
		s.eventually("kube-proxy's rules are those of iptables alone", func(context.Context) error {
			tables, err := cell.run("nft", "list", "tables")
			if err != nil || bytes.Contains(tables, []byte("kube-proxy")) {
				return errors.Join(err, fmt.Errorf("the tables are %s", tables))
			}
			if rules, err := cell.run("iptables-save", "-t", "nat"); err != nil || !bytes.Contains(rules, []byte("KUBE-SVC-")) {
				return errors.Join(err, fmt.Errorf("iptables has %s", rules))
			}
			return nil
		})
		s.answers("web-a", "http://"+s.service("web").Spec.ClusterIP+"/hello", 15, all...)
		s.answers("web-a", "http://only-a/hello", 3, "hello from web-a")
		s.answers("web-a", "http://inside/hello", 6, "hello from web-a")
		address := pods["web-a"].Status.HostIP
		s.answers("client", fmt.Sprintf("http://%s:%d/hello", address, s.service("outside").Spec.Ports[0].NodePort), 15, all...)
		s.answers("client", fmt.Sprintf("http://%s:%d/client", address, s.service("outside-local").Spec.Ports[0].NodePort), 1, pods["client"].Status.PodIP)
	})
}
