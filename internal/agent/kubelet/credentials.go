package kubelet

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
)

// KeyPair is a certificate and its private key, both PEM.
type KeyPair struct {
	Certificate, Key []byte
}

// Credentials are what kubelet and kube-proxy prove themselves with and check
// others by, all made by the agent for this boot.
type Credentials struct {
	// CA is the agent's authority (PEM certificate).
	CA []byte
	// Server is the kubelet's serving certificate.
	Server KeyPair
	// Kubelet and Proxy are the client certificates for the agent's API server.
	Kubelet, Proxy KeyPair
}

// Write writes the credentials below root for the API server at the URL.
func (c Credentials) Write(root, server string) error {
	kubeletConfig, err := kubeconfig(server, c.CA, c.Kubelet)
	if err != nil {
		return err
	}
	proxyConfig, err := kubeconfig(server, c.CA, c.Proxy)
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		ClientCA:        c.CA,
		ServerCert:      c.Server.Certificate,
		ServerKey:       c.Server.Key,
		Kubeconfig:      kubeletConfig,
		proxyKubeconfig: proxyConfig,
	} {
		if err := writeFile(filepath.Join(root, path), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig renders a client configuration with one server and one user.
func kubeconfig(server string, ca []byte, client KeyPair) ([]byte, error) {
	type object = map[string]any
	b64 := base64.StdEncoding.EncodeToString
	content, err := json.MarshalIndent(object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []object{{"name": "cell", "cluster": object{
			"server": server, "certificate-authority-data": b64(ca),
		}}},
		"users": []object{{"name": "cell", "user": object{
			"client-certificate-data": b64(client.Certificate), "client-key-data": b64(client.Key),
		}}},
		"contexts":        []object{{"name": "cell", "context": object{"cluster": "cell", "user": "cell"}}},
		"current-context": "cell",
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("rendering kubeconfig: %w", err)
	}
	return append(content, '\n'), nil
}
