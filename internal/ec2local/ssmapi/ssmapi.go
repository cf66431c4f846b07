// Package ssmapi speaks the part of Systems Manager's API that is Parameter Store: parameters of the account, and the
// public ones that name the images of EKS, if there are such images here.
package ssmapi

import (
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/statefile"
)

// Config is what the service is made of.
type Config struct {
	// File keeps the parameters.
	File string
	// Images are the images that there are.
	Images            func() ([]cloud.Image, error)
	AccountID, Region string
	Gate              *access.Gate
	Now               func() time.Time
	Log               *slog.Logger
}

// parameter is a parameter of the account.
type parameter struct {
	Name, Type, Value, Description string
	Version                        int
	Modified                       time.Time
	Tags                           map[string]string
}

// parameters are the account's, by name.
type parameters map[string]parameter

// Clone implements [statefile.State].
func (p parameters) Clone() parameters { return maps.Clone(p) }

type api struct {
	cfg   Config
	store *statefile.Store[parameters]
}

// New makes the service.
func New(cfg Config) (*service.Server, error) {
	store, err := statefile.Open(cfg.File, parameters{})
	if err != nil {
		return nil, err
	}
	a := &api{cfg, store}
	return &service.Server{
		Prefix: "ssm", Protocol: service.JSON{Target: "AmazonSSM"}, Gate: cfg.Gate, Log: cfg.Log,
		Operations: map[string]service.Operation{
			"DeleteParameter":     service.Silent(a.deleteParameter),
			"GetParameter":        service.Op(a.getParameter),
			"GetParameters":       service.Op(a.getParameters),
			"GetParametersByPath": service.Op(a.getParametersByPath),
			"PutParameter":        service.Op(a.putParameter),
		},
	}, nil
}

var (
	goodName = regexp.MustCompile(`^/?[\w.-]+(/[\w.-]+)*$`)
	reserved = regexp.MustCompile(`(?i)^/?(aws|ssm)([/._-]|$)`)
)

const (
	maxLevels = 15
	maxValue  = 4096 // bytes, of a parameter of the standard tier
	maxNames  = 10   // in one request
)

func invalid(format string, args ...any) error {
	return service.Errorf(http.StatusBadRequest, "ValidationException", format, args...)
}

func notFound(name string) error {
	return service.Errorf(http.StatusBadRequest, "ParameterNotFound", "Parameter %s not found.", name)
}
