package kubelet

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// credentialProviderFile says which images the kubelet needs credentials for,
// and which program knows them.
const credentialProviderFile = dir + "/credential-provider.json"

// CredentialProviderCommand is the argument with which the kubelet runs the
// agent's binary to ask it for credentials.
const CredentialProviderCommand = "registry-credentials"

// registriesOfClouds are the hosts whose credentials Kip can get by itself, as
// the kubelet matches them: a star is one part of a name. For all others there
// are imagePullSecrets.
var registriesOfClouds = []string{
	"*.dkr.ecr.*.amazonaws.com",
	"*.dkr.ecr.*.amazonaws.com.cn",
	"*.dkr.ecr-fips.*.amazonaws.com",
	"*.dkr-ecr.*.on.aws",
	"*.dkr-ecr-fips.*.on.aws",
}

// writeCredentialProvider writes the kubelet's CredentialProviderConfig.
func (n Node) writeCredentialProvider(root string) error {
	type object = map[string]any
	content, err := json.MarshalIndent(object{
		"apiVersion": "kubelet.config.k8s.io/v1",
		"kind":       "CredentialProviderConfig",
		"providers": []object{{
			"name":        filepath.Base(n.CredentialProvider),
			"args":        []string{CredentialProviderCommand},
			"apiVersion":  "credentialprovider.kubelet.k8s.io/v1",
			"matchImages": registriesOfClouds,
			// Kip's answers say for how long they are good.
			"defaultCacheDuration": "0s",
		}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the kubelet's credential provider configuration: %w", err)
	}
	return writeFile(filepath.Join(root, credentialProviderFile), append(content, '\n'), 0o644)
}
