// Package ssmapi speaks the part of Systems Manager's API that is Parameter Store: parameters of the account, and the
// public ones that name the images of EKS, if there are such images here.
package ssmapi

import (
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"sync"
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

type api struct {
	cfg Config

	mu         sync.Mutex
	parameters map[string]parameter // by name
}

// New makes the service.
func New(cfg Config) (*service.Server, error) {
	a := &api{cfg: cfg, parameters: map[string]parameter{}}
	if err := statefile.Read(cfg.File, &a.parameters); err != nil {
		return nil, err
	}
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

// change publishes changed parameters.
func (a *api) change(edit func(map[string]parameter) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := maps.Clone(a.parameters)
	if err := edit(next); err != nil {
		return err
	}
	if err := statefile.Write(a.cfg.File, next); err != nil {
		return err
	}
	a.parameters = next
	return nil
}

// all are the account's parameters. They are not to be modified.
func (a *api) all() map[string]parameter {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.parameters
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
