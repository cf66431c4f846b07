package kubelet

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

const (
	proxyConfigFile = dir + "/kube-proxy.json"
	proxyKubeconfig = dir + "/kube-proxy.kubeconfig"
)

// WriteProxy writes kube-proxy's configuration below root.
func (n Node) WriteProxy(root string) error {
	type object = map[string]any
	content, err := json.MarshalIndent(object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             n.ProxyMode,
		"hostnameOverride": n.Name,
		// Nobody asks it anything; without a value it would listen everywhere.
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		// Connection tracking is left as the machine has it: its sysctls are
		// not writable in every kind of cell.
		"conntrack":        object{"maxPerCore": 0, "min": 0},
		"clientConnection": object{"kubeconfig": proxyKubeconfig, "contentType": "application/json"},
		// A pod's own packets are the only ones here; none of them needs to be
		// masqueraded on its way to a Service.
		"detectLocalMode": "InterfaceNamePrefix",
		"detectLocal":     object{"interfaceNamePrefix": "veth"},
		"nodePortAddresses": []string{
			n.Address.String() + "/32",
		},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing kube-proxy's configuration: %w", err)
	}
	return writeFile(filepath.Join(root, proxyConfigFile), append(content, '\n'), 0o644)
}

// ProxyArgs are kube-proxy's command line.
func (n Node) ProxyArgs() []string {
	return []string{"--config=" + proxyConfigFile}
}
