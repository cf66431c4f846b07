// Package ecrapi is as much of ECR as pushing and pulling need: the part of its API that hands out passwords and makes
// repositories, and the account's private registry, which lets in whoever has a password and asks their policies about
// every image.
package ecrapi

import (
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/statefile"
)

// Config is what the service is made of.
type Config struct {
	AccountID, Region string
	// File keeps which repositories there are, and what was pushed to them.
	File string
	// Images is the registry, open to everybody, that stores what is pushed to the private one, under the same names.
	// There need not be one.
	Images *url.URL
	// Identities makes passwords, and knows whose they are.
	Identities *iam.Account
	Gate       *access.Gate
	Now        func() time.Time
	Log        *slog.Logger
}

// tokenLife is how long ECR's passwords are good.
const tokenLife = 12 * time.Hour

// user is the name that goes with every password.
const user = "AWS"

// New makes the API, and the registry unless nothing stores its images.
func New(cfg Config) (*service.Server, http.Handler, error) {
	store, err := statefile.Open(cfg.File, repositories{})
	if err != nil {
		return nil, nil, err
	}
	a := &api{cfg, store}
	server := &service.Server{
		Prefix: "ecr", Protocol: service.JSON{Target: "AmazonEC2ContainerRegistry_V20150921"}, Gate: cfg.Gate, Log: cfg.Log,
		Operations: map[string]service.Operation{
			"CreateRepository":      service.Op(a.createRepository),
			"DeleteRepository":      service.Op(a.deleteRepository),
			"DescribeRepositories":  service.Op(a.describeRepositories),
			"GetAuthorizationToken": service.Op(a.getAuthorizationToken),
		},
	}
	if cfg.Images == nil {
		return server, nil, nil
	}
	return server, newRegistry(a), nil
}

type api struct {
	cfg   Config
	store *statefile.Store[repositories]
}

type tokenRequest struct {
	RegistryIDs []string `json:"registryIds"`
}

type tokenAnswer struct {
	Data []authorization `json:"authorizationData"`
}

type authorization struct {
	Token    string        `json:"authorizationToken"`
	Expires  service.Epoch `json:"expiresAt"`
	Endpoint string        `json:"proxyEndpoint"`
}

var accountID = regexp.MustCompile(`^[0-9]{12}$`)

func (a *api) getAuthorizationToken(c *service.Call, in *tokenRequest) (*tokenAnswer, error) {
	if err := c.Authorize("*", nil); err != nil {
		return nil, err
	}
	if len(in.RegistryIDs) == 0 {
		in.RegistryIDs = []string{a.cfg.AccountID}
	}
	answer := &tokenAnswer{}
	expires := a.cfg.Now().Add(tokenLife)
	for _, id := range in.RegistryIDs {
		if !accountID.MatchString(id) {
			return nil, invalid("Invalid parameter at 'registryIds': %q is no account", id)
		}
		answer.Data = append(answer.Data, authorization{
			Token:    base64.StdEncoding.EncodeToString([]byte(user + ":" + a.cfg.Identities.RegistryPassword(c.Caller.Principal, expires))),
			Expires:  service.Epoch(expires),
			Endpoint: "https://" + a.host(id),
		})
	}
	return answer, nil
}

// host is where the registry of an account is.
func (a *api) host(account string) string {
	return account + ".dkr.ecr." + a.cfg.Region + ".amazonaws.com"
}

func invalid(format string, args ...any) error {
	return service.Errorf(http.StatusBadRequest, "InvalidParameterException", format, args...)
}
