package iam

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// CreateProvider makes an OIDC provider. Its URL has a scheme yet, which must be https.
func (a *Account) CreateProvider(p Provider) (Provider, error) {
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return p, service.Errorf(http.StatusBadRequest, "ValidationError", "Invalid Open ID Connect Provider URL")
	}
	p.URL = strings.TrimSuffix(strings.TrimPrefix(p.URL, "https://"), "/")
	p.Created = a.cfg.Now().UTC()
	return p, a.store.Change(func(s *state) error {
		if _, ok := s.Providers[p.URL]; ok {
			return service.Errorf(http.StatusConflict, "EntityAlreadyExists", "Provider with url https://%s already exists.", p.URL)
		}
		s.Providers[p.URL] = p
		return nil
	})
}

// Provider returns an OIDC provider by its ARN.
func (a *Account) Provider(arn string) (Provider, error) {
	for _, p := range a.store.Now().Providers {
		if a.ProviderARN(p) == arn {
			return p, nil
		}
	}
	return Provider{}, noProvider(arn)
}

func noProvider(arn string) error {
	return service.Errorf(http.StatusNotFound, "NoSuchEntity", "OpenIDConnect Provider not found for arn %s", arn)
}

// Providers returns all OIDC providers, by URL.
func (a *Account) Providers() []Provider {
	var out []Provider
	for _, p := range a.store.Now().Providers {
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y Provider) int { return cmp.Compare(x.URL, y.URL) })
	return out
}

// DeleteProvider removes an OIDC provider.
func (a *Account) DeleteProvider(arn string) error {
	return a.store.Change(func(s *state) error {
		for url, p := range s.Providers {
			if a.ProviderARN(p) == arn {
				delete(s.Providers, url)
				return nil
			}
		}
		return noProvider(arn)
	})
}
