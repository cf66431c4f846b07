package containerd

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/elotl/kip/v2/internal/userdata"
)

// WriteMirrors writes, below root, where containerd is to look for images:
// each registry's mirrors in their order, then the registry itself.
func WriteMirrors(root string, mirrors []userdata.Mirror) error {
	endpoints, err := ByRegistry(mirrors)
	if err != nil {
		return err
	}
	for registry, list := range endpoints {
		path := filepath.Join(root, RegistryDir, directory(registry), "hosts.toml")
		if err := writeFile(path, renderHosts(list)); err != nil {
			return err
		}
	}
	return nil
}

// ByRegistry sorts the mirrors' endpoints by the registry they stand in for. A
// pattern such as "*.dkr.ecr.us-west-2.amazonaws.com" cannot be a directory:
// its mirror becomes one for every registry that is not named. That is safe, as
// a mirror that lacks an image is passed over.
func ByRegistry(mirrors []userdata.Mirror) (map[string][]string, error) {
	endpoints := map[string][]string{}
	add := func(registry, endpoint string) {
		for _, known := range endpoints[registry] {
			if known == endpoint {
				return
			}
		}
		endpoints[registry] = append(endpoints[registry], endpoint)
	}
	for _, m := range mirrors {
		u, err := url.Parse(m.Endpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("registry mirror %q is not an http or https URL", m.Endpoint)
		}
		for _, registry := range m.Hosts {
			switch {
			case registry == userdata.DefaultMirror || strings.Contains(registry, "*"):
				add(userdata.DefaultMirror, m.Endpoint)
			case registry == "" || strings.ContainsAny(registry, "/\\"):
				return nil, fmt.Errorf("registry mirror %s is for %q, which is no host name", m.Endpoint, registry)
			default:
				add(registry, m.Endpoint)
			}
		}
	}
	return endpoints, nil
}

// directory is how containerd names a registry's directory: a colon before a
// port cannot be in it.
func directory(registry string) string {
	if host, port, ok := strings.Cut(registry, ":"); ok {
		return host + "_" + port + "_"
	}
	return registry
}

func renderHosts(endpoints []string) string {
	var b strings.Builder
	for _, e := range endpoints {
		fmt.Fprintf(&b, "[host.%s]\n", quote(e))
		b.WriteString("capabilities = [\"pull\", \"resolve\"]\n")
		// A mirror that is gone must not hold up the pull from the registry.
		b.WriteString("dial_timeout = \"2s\"\n")
		// A mirror of several registries keeps each below a path of its own,
		// which is then the whole path: nothing is put before or after it.
		if u, err := url.Parse(e); err == nil && strings.Trim(u.Path, "/") != "" {
			b.WriteString("override_path = true\n")
		}
	}
	return b.String()
}
