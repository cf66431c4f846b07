package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Question asks about an image under the name that it has in a place. It may be
// called often, and what came of it before is forgotten.
type Question func(at name.Reference, how ...remote.Option) error

// Ask asks the places of an image in turn, with each login, or without one if
// there is none, until one answers. Answers are no longer than manifests are. It
// returns the login with which there was one, nil for none.
func (p *Places) Ask(ctx context.Context, ref name.Reference, logins []authn.AuthConfig, ask Question) (*authn.AuthConfig, error) {
	return p.ask(ctx, ref, logins, ask, Bounded)
}

// AskForMuch is Ask for answers of any length.
func (p *Places) AskForMuch(ctx context.Context, ref name.Reference, logins []authn.AuthConfig, ask Question) (*authn.AuthConfig, error) {
	return p.ask(ctx, ref, logins, ask, func(via http.RoundTripper) http.RoundTripper { return via })
}

func (p *Places) ask(ctx context.Context, ref name.Reference, logins []authn.AuthConfig, ask Question, bound func(http.RoundTripper) http.RoundTripper) (*authn.AuthConfig, error) {
	places := p.Of(ref)
	if len(places) == 0 {
		return nil, fmt.Errorf("%s is not asked over plain http", Host(ref.Context()))
	}
	var errs []error
	for _, place := range places {
		how := []remote.Option{remote.WithContext(ctx), remote.WithTransport(bound(place.Via)), remote.WithUserAgent("kip"), remote.WithRetryBackoff(remote.Backoff{Steps: 1})}
		if len(logins) == 0 {
			err := ask(place.Reference, append(how, remote.WithAuth(authn.Anonymous))...)
			if err == nil {
				return nil, nil
			}
			errs = append(errs, err)
		}
		for i := range logins {
			err := ask(place.Reference, append(how, remote.WithAuth(authn.FromConfig(logins[i])))...)
			if err == nil {
				return &logins[i], nil
			}
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// Refused tells whether an error is a registry's answer that the image is not
// there for whoever asked, and not that nobody answered.
func Refused(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // each of them must be one
		all := joined.Unwrap()
		for _, e := range all {
			if !Refused(e) {
				return false
			}
		}
		return len(all) > 0
	}
	answer, ok := errors.AsType[*transport.Error](err)
	return ok && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusNotFound)
}
