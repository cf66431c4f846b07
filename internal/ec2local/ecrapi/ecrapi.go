// Package ecrapi speaks the part of ECR's API that hands out passwords. Registries of local images let everybody in, so
// a password is good for being shown, nothing more.
package ecrapi

import (
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// Config is what the service is made of.
type Config struct {
	AccountID, Region string
	Gate              *access.Gate
	Now               func() time.Time
	Log               *slog.Logger
}

// tokenLife is how long ECR's passwords are good.
const tokenLife = 12 * time.Hour

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
	for _, id := range in.RegistryIDs {
		if !accountID.MatchString(id) {
			return nil, service.Errorf(http.StatusBadRequest, "InvalidParameterException", "Invalid parameter at 'registryIds': %q is no account", id)
		}
		answer.Data = append(answer.Data, authorization{
			Token:    base64.StdEncoding.EncodeToString([]byte("AWS:" + rand.Text() + rand.Text())),
			Expires:  service.Epoch(a.cfg.Now().Add(tokenLife)),
			Endpoint: "https://" + id + ".dkr.ecr." + a.cfg.Region + ".amazonaws.com",
		})
	}
	return answer, nil
}
