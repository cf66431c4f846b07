package localcluster

import (
	"encoding/base64"
	"fmt"
	"os"
	"text/template"
)

const (
	metricsServerPort = 4443
	metricsAPIFile    = "metrics-api.yaml"
)

// metricsServer is what kubectl top and horizontal pod autoscalers ask, with
// the flags of its own manifests. It checks the kubelets' certificates, Kip's
// among them.
func (c *Cluster) metricsServer() process {
	kubeconfig, host := c.path("metrics-server.kubeconfig"), c.settings.host().String()
	return process{
		Name: MetricsServer, Path: c.tool("metrics-server"),
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
			"--bind-address=" + host, fmt.Sprintf("--secure-port=%d", metricsServerPort),
			"--tls-cert-file=" + c.pki.path("metrics-server-serving.crt"), "--tls-private-key-file=" + c.pki.path("metrics-server-serving.key"),
			"--kubelet-certificate-authority=" + c.pki.path("ca.crt"),
			"--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port",
			"--metric-resolution=15s",
		},
		// Not readyz, which waits for the metrics of some pod.
		Ready: answers(fmt.Sprintf("https://%s:%d/livez", host, metricsServerPort)),
	}
}

// metricsAPI has the API server pass on to a process of the host what belongs
// to metrics.k8s.io.
var metricsAPI = template.Must(template.New(metricsAPIFile).Parse(`# Written by kip-local.
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec:
  ports: [{name: https, port: 443, targetPort: {{.Port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: metrics-server
  namespace: kube-system
  labels: {kubernetes.io/service-name: metrics-server}
addressType: IPv4
ports: [{name: https, port: {{.Port}}, protocol: TCP}]
endpoints: [{addresses: ["{{.Host}}"]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  service: {name: metrics-server, namespace: kube-system}
  caBundle: {{.CA}}
`))

func (c *Cluster) writeMetricsAPI() error {
	ca, err := os.ReadFile(c.pki.path("ca.crt"))
	if err != nil {
		return err
	}
	return writeTemplate(c.path(metricsAPIFile), metricsAPI, map[string]any{
		"Host": c.settings.host(), "Port": metricsServerPort, "CA": base64.StdEncoding.EncodeToString(ca),
	})
}
