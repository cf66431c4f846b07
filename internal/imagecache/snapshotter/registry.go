package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/settings"
)

// Registry fetches layers from where containerd would: a registry's mirrors in
// their order, then the registry itself.
type Registry struct {
	// Mirrors are endpoints by the registry that they stand in for.
	Mirrors map[string][]string
	// Grants has the login.
	Grants Grants
}

// Fetch opens the archive of a layer. What is read is checked against the
// layer's digest at its end.
func (r *Registry) Fetch(ctx context.Context, of grant.Question, l layer.Layer) (io.ReadCloser, error) {
	ref, err := name.ParseReference(of.Image)
	if err != nil {
		return nil, fmt.Errorf("the image's name: %w", err)
	}
	repositories, err := r.places(ref.Context())
	if err != nil {
		return nil, err
	}
	auth := authn.Anonymous
	// Without Kip's answer it is tried all the same: most registries let anybody
	// read.
	answer, unanswered := r.Grants.Grant(ctx, of)
	if answer.Login != nil {
		auth = authn.FromConfig(authn.AuthConfig{Username: answer.Login.Username, Password: answer.Login.Password})
	}
	errs := []error{unanswered}
	for _, repository := range repositories {
		found, err := remote.Layer(repository.Digest(l.Digest), remote.WithContext(ctx), remote.WithAuth(auth), remote.WithUserAgent("kip-snapshotter"))
		if err == nil {
			var archive io.ReadCloser
			if archive, err = found.Compressed(); err == nil {
				return archive, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// places are the names of a repository, each with its host.
func (r *Registry) places(repository name.Repository) ([]name.Repository, error) {
	host := repository.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	endpoints, named := r.Mirrors[host]
	if !named {
		endpoints = r.Mirrors[settings.DefaultMirrors]
	}
	var places []name.Repository
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil {
			return nil, fmt.Errorf("the registry mirror: %w", err)
		}
		var options []name.Option
		if u.Scheme == "http" {
			options = append(options, name.Insecure)
		}
		// A mirror with a path has everything below it; what containerd puts
		// before a path that is not overridden is no part of a name.
		path := strings.TrimPrefix(strings.Trim(u.Path, "/"), "v2")
		full := strings.Join([]string{u.Host, strings.Trim(path, "/"), repository.RepositoryStr()}, "/")
		place, err := name.NewRepository(strings.ReplaceAll(full, "//", "/"), options...)
		if err != nil {
			return nil, fmt.Errorf("the registry mirror: %w", err)
		}
		places = append(places, place)
	}
	return append(places, repository), nil
}
