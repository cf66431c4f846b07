// Package ecrapi is as much of ECR as a pull needs: the part of its API that hands out passwords, and the account's
// private registry, which lets in whoever has one and asks their policies about every image.
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
)

// Config is what the service is made of.
type Config struct {
	AccountID, Region string
	// Images is the registry, open to everybody, that holds the images of the private one. There need not be one.
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

// New makes the service.
func New(cfg Config) *service.Server {
	a := &api{cfg}
	return &service.Server{
		Prefix: "ecr", Protocol: service.JSON{Target: "AmazonEC2ContainerRegistry_V20150921"}, Gate: cfg.Gate, Log: cfg.Log,
		Operations: map[string]service.Operation{"GetAuthorizationToken": service.Op(a.getAuthorizationToken)},
	}
}

type api struct{ cfg Config }

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
			return nil, service.Errorf(http.StatusBadRequest, "InvalidParameterException", "Invalid parameter at 'registryIds': %q is no account", id)
		}
		answer.Data = append(answer.Data, authorization{
			Token:    base64.StdEncoding.EncodeToString([]byte(user + ":" + a.cfg.Identities.RegistryPassword(c.Caller.Principal, expires))),
			Expires:  service.Epoch(expires),
			Endpoint: "https://" + id + ".dkr.ecr." + a.cfg.Region + ".amazonaws.com",
		})
	}
	return answer, nil
}
