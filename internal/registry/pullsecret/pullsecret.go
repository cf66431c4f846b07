// Package pullsecret reads as whom registries are asked: what a pod's pull secrets
// say of a repository. It is apart from package registry, which cells' programs
// have, as it needs Kubernetes' types.
package pullsecret

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/registry"
)

// Logins returns what pull secrets have for a repository, in the order in which
// a kubelet tries them: the entry that names most of the repository first. A
// secret that cannot be read is left out, as a kubelet does.
func Logins(secrets []*corev1.Secret, repository name.Repository) []authn.AuthConfig {
	var found []login
	for _, s := range secrets {
		for server, auth := range entries(s) {
			if pattern, ok := matches(server, repository); ok {
				found = append(found, login{pattern, auth})
			}
		}
	}
	slices.SortFunc(found, func(a, b login) int {
		return cmp.Or(cmp.Compare(len(b.pattern), len(a.pattern)), strings.Compare(a.pattern, b.pattern),
			strings.Compare(a.auth.Username, b.auth.Username), strings.Compare(a.auth.Password, b.auth.Password))
	})
	var auths []authn.AuthConfig
	for _, f := range found {
		auths = append(auths, f.auth)
	}
	return auths
}

type login struct {
	pattern string
	auth    authn.AuthConfig
}

// entry is one of a Docker configuration file.
type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func entries(s *corev1.Secret) map[string]authn.AuthConfig {
	var file struct {
		Auths map[string]entry `json:"auths"`
	}
	var err error
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		err = json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file)
	case corev1.SecretTypeDockercfg:
		err = json.Unmarshal(s.Data[corev1.DockerConfigKey], &file.Auths)
	}
	if err != nil {
		return nil
	}
	auths := map[string]authn.AuthConfig{}
	for server, e := range file.Auths {
		if e.Username == "" && e.Password == "" && e.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(strings.TrimRight(e.Auth, "\x00"))
			if err != nil {
				continue
			}
			e.Username, e.Password, _ = strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
		}
		auths[server] = authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	}
	return auths
}

// matches tells whether an entry's key is for a repository. It is a host, whose
// parts may be globs, with the beginning of a path or without; or what docker
// login writes for Docker Hub.
func matches(server string, repository name.Repository) (pattern string, ok bool) {
	_, after, found := strings.Cut(server, "://")
	if !found {
		after = server
	}
	host, prefix, _ := strings.Cut(after, "/")
	prefix = strings.Trim(prefix, "/")
	if prefix == "v1" || prefix == "v2" {
		prefix = ""
	}
	if host == name.DefaultRegistry || host == "registry-1.docker.io" {
		host = registry.DockerHub
	}
	parts, want := strings.Split(host, "."), strings.Split(registry.Host(repository), ".")
	if len(parts) != len(want) {
		return "", false
	}
	for i := range parts {
		if ok, err := path.Match(parts[i], want[i]); err != nil || !ok {
			return "", false
		}
	}
	if prefix != "" && !strings.HasPrefix(repository.RepositoryStr()+"/", prefix+"/") {
		return "", false
	}
	return host + "/" + prefix, true
}
