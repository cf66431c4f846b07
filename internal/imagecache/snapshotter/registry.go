package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/registry"
)

// Registry fetches layers from where containerd would.
type Registry struct {
	Places *registry.Places
	// Grants has the login.
	Grants Grants
}

// placesOf are those that settings name.
func placesOf(mirrors map[string][]string) (*registry.Places, error) {
	var all []registry.Mirror
	for host, endpoints := range mirrors {
		for _, e := range endpoints {
			all = append(all, registry.Mirror{Hosts: []string{host}, Endpoint: e})
		}
	}
	return registry.NewPlaces(all)
}

// Fetch opens the archive of a layer. What is read is checked against the
// layer's digest at its end.
func (r *Registry) Fetch(ctx context.Context, of grant.Question, l layer.Layer) (io.ReadCloser, error) {
	ref, err := name.ParseReference(of.Image)
	if err != nil {
		return nil, fmt.Errorf("the image's name: %w", err)
	}
	var logins []authn.AuthConfig
	// Without Kip's answer it is tried all the same: most registries let anybody
	// read.
	answer, unanswered := r.Grants.Grant(ctx, of)
	if answer.Login != nil {
		logins = append(logins, authn.AuthConfig{Username: answer.Login.Username, Password: answer.Login.Password})
	}
	var archive io.ReadCloser
	_, err = r.Places.AskForMuch(ctx, ref.Context().Digest(l.Digest), logins, func(at name.Reference, how ...remote.Option) error {
		found, err := remote.Layer(at.Context().Digest(l.Digest), how...)
		if err == nil {
			archive, err = found.Compressed()
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(unanswered, err)
	}
	return archive, nil
}
