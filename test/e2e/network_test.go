package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods on cells find each other by address, by Service and by name, and find
// the API server, whether they have a network of their own or the cell's.
func TestNetwork(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	if _, err := shared.kube.CoreV1().Services(s.name).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: port(8080)}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.create(newPod("server", program("server", "serve")))
	s.create(newPod("pod", program("client", "serve")))
	onHost := newPod("host", program("client", "serve"))
	onHost.Spec.HostNetwork = true
	onHost.Spec.DNSPolicy = corev1.DNSClusterFirstWithHostNet
	s.create(onHost)
	server := s.awaitReady("server")
	s.awaitReady("pod")
	host := s.awaitReady("host")
	if host.Status.PodIP != host.Status.HostIP || host.Status.PodIP == "" {
		t.Errorf("a pod in the cell's network has address %s, the cell %s", host.Status.PodIP, host.Status.HostIP)
	}
	service, err := shared.kube.CoreV1().Services(s.name).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{"pod", "host"} {
		for what, url := range map[string]string{
			"the pod's address":              fmt.Sprintf("http://%s:8080/hello", server.Status.PodIP),
			"the Service's address":          fmt.Sprintf("http://%s/hello", service.Spec.ClusterIP),
			"the Service's name":             "http://web/hello",
			"the Service's full name":        fmt.Sprintf("http://web.%s.svc.cluster.local/hello", s.name),
			"the API server, with its token": "https://kubernetes.default.svc/version",
		} {
			want := "hello from server\n"
			if strings.HasPrefix(url, "https:") {
				want = `"gitVersion"`
			}
			s.eventually(client+" reaches "+what, func(context.Context) error {
				out, code := s.tryKubectl("", "exec", client, "--", "/testimage", "get", url)
				if code != 0 || !strings.Contains(out, want) {
					return errors.New(out)
				}
				return nil
			})
		}
	}
	// A Service whose pod is gone refuses at once.
	s.delete("server")
	s.eventually("the Service without pods refuses", func(context.Context) error {
		out, code := s.tryKubectl("", "exec", "pod", "--", "/testimage", "get", "http://web/hello")
		if code == 0 || !strings.Contains(out, "refused") {
			return fmt.Errorf("code %d: %s", code, out)
		}
		return nil
	})
}
