package ssmapi

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// arn is the ARN of a parameter or of a path. Public parameters belong to no account.
func (a *api) arn(name string) string {
	account := a.cfg.AccountID
	if strings.HasPrefix(name, publicPrefix) {
		account = ""
	}
	return "arn:aws:ssm:" + a.cfg.Region + ":" + account + ":parameter/" + strings.TrimPrefix(name, "/")
}

// authorize asks for the operation on a parameter, which may not exist.
func (a *api) authorize(c *service.Call, name string) error {
	keys := policy.Keys{}
	keys.Tags("aws:ResourceTag", a.store.Now()[name].Tags)
	return c.Authorize(a.arn(name), keys)
}

type answerParameter struct {
	ARN      string `json:"ARN"`
	Name     string
	Type     string
	Value    string
	Version  int
	Modified service.Epoch `json:"LastModifiedDate"`
	DataType string
}

// shown is a parameter in an answer. What is secret is shown to whoever asks for decryption, and otherwise as something
// that means nothing.
func (a *api) shown(p parameter, decrypt bool) answerParameter {
	value := p.Value
	if p.Type == "SecureString" && !decrypt {
		sum := sha256.Sum256([]byte(p.Name + "\x00" + p.Value))
		value = base64.StdEncoding.EncodeToString(sum[:])
	}
	return answerParameter{
		ARN: a.arn(p.Name), Name: p.Name, Type: p.Type, Value: value, Version: p.Version,
		Modified: service.Epoch(p.Modified), DataType: "text",
	}
}

type tag struct{ Key, Value string }

type putRequest struct {
	Name, Value, Type, Description string
	Overwrite                      bool
	Tags                           []tag
	DataType, Tier                 string
}

type putAnswer struct {
	Version int
	Tier    string
}

func (a *api) putParameter(c *service.Call, in *putRequest) (*putAnswer, error) {
	tags := map[string]string{}
	keys := policy.Keys{}
	for _, t := range in.Tags {
		tags[t.Key] = t.Value
	}
	keys.Tags("aws:ResourceTag", a.store.Now()[in.Name].Tags)
	if len(tags) > 0 {
		keys.Tags("aws:RequestTag", tags)
		keys.Set("aws:TagKeys", slices.Sorted(maps.Keys(tags))...)
	}
	if err := c.Authorize(a.arn(in.Name), keys); err != nil {
		return nil, err
	}
	switch {
	case !goodName.MatchString(in.Name) || strings.Count(in.Name, "/") > maxLevels || strings.Contains(in.Name[1:], "/") && in.Name[0] != '/':
		return nil, invalid("Parameter name must be a fully qualified name.")
	case reserved.MatchString(in.Name):
		return nil, service.Errorf(http.StatusBadRequest, "AccessDeniedException", "No access to reserved parameter name: %s.", in.Name)
	case in.Value == "" || len(in.Value) > maxValue:
		return nil, invalid("Standard tier parameters support a maximum parameter value of %d characters.", maxValue)
	case in.Type != "" && !slices.Contains([]string{"String", "StringList", "SecureString"}, in.Type):
		return nil, service.Errorf(http.StatusBadRequest, "UnsupportedParameterType", "The parameter type %s is not supported.", in.Type)
	case in.Overwrite && len(in.Tags) > 0:
		return nil, invalid("Invalid request: tags and overwrite can't be used together.")
	case in.DataType != "" && in.DataType != "text", in.Tier != "" && in.Tier != "Standard":
		return nil, invalid("Only text of the tier Standard is kept here.")
	}
	answer := &putAnswer{Tier: "Standard"}
	return answer, a.store.Change(func(all *parameters) error {
		p, known := (*all)[in.Name]
		if known && !in.Overwrite {
			return service.Errorf(http.StatusBadRequest, "ParameterAlreadyExists",
				"The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
		}
		if !known && in.Type == "" {
			return invalid("A parameter type is required when you create a parameter.")
		}
		if !known {
			p = parameter{Name: in.Name, Tags: tags}
		}
		if in.Type != "" {
			p.Type = in.Type
		}
		p.Value, p.Description, p.Modified = in.Value, in.Description, a.cfg.Now().UTC()
		p.Version++
		(*all)[in.Name] = p
		answer.Version = p.Version
		return nil
	})
}

type getRequest struct {
	Name           string
	WithDecryption bool
}

type getAnswer struct{ Parameter answerParameter }

func (a *api) getParameter(c *service.Call, in *getRequest) (*getAnswer, error) {
	if err := a.authorize(c, in.Name); err != nil {
		return nil, err
	}
	p, err := a.find(in.Name)
	if err != nil {
		return nil, err
	}
	return &getAnswer{a.shown(p, in.WithDecryption)}, nil
}

// find finds a parameter of the account, or a public one.
func (a *api) find(name string) (parameter, error) {
	if strings.HasPrefix(name, publicPrefix) {
		return a.public(name)
	}
	p, ok := a.store.Now()[name]
	if !ok {
		return p, notFound(name)
	}
	return p, nil
}

type getManyRequest struct {
	Names          []string
	WithDecryption bool
}

type getManyAnswer struct {
	Parameters []answerParameter
	Invalid    []string `json:"InvalidParameters"`
}

func (a *api) getParameters(c *service.Call, in *getManyRequest) (*getManyAnswer, error) {
	if len(in.Names) < 1 || len(in.Names) > maxNames {
		return nil, invalid("1 validation error detected: Value at 'names' must have from 1 to %d names", maxNames)
	}
	for _, name := range in.Names {
		if err := a.authorize(c, name); err != nil {
			return nil, err
		}
	}
	answer := &getManyAnswer{Parameters: []answerParameter{}, Invalid: []string{}}
	for _, name := range in.Names {
		p, err := a.find(name)
		var refused *service.Error
		switch {
		case err == nil:
			answer.Parameters = append(answer.Parameters, a.shown(p, in.WithDecryption))
		case errors.As(err, &refused):
			answer.Invalid = append(answer.Invalid, name)
		default:
			return nil, err
		}
	}
	return answer, nil
}

type byPathRequest struct {
	Path           string
	Recursive      bool
	WithDecryption bool
	MaxResults     *int
	NextToken      string
}

type byPathAnswer struct {
	Parameters []answerParameter
	NextToken  string `json:",omitempty"`
}

func (a *api) getParametersByPath(c *service.Call, in *byPathRequest) (*byPathAnswer, error) {
	if err := c.Authorize(a.arn(in.Path), nil); err != nil {
		return nil, err
	}
	limit := maxNames
	if in.MaxResults != nil {
		limit = *in.MaxResults
	}
	switch {
	case !strings.HasPrefix(in.Path, "/"):
		return nil, invalid("The parameter path must begin with a slash")
	case limit < 1 || limit > maxNames:
		return nil, invalid("MaxResults must be from 1 to %d", maxNames)
	}
	folder := strings.TrimSuffix(in.Path, "/") + "/"
	answer := &byPathAnswer{Parameters: []answerParameter{}}
	all := a.store.Now()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rest, ok := strings.CutPrefix(name, folder)
		if !ok || !in.Recursive && strings.Contains(rest, "/") || name <= in.NextToken {
			continue
		}
		if len(answer.Parameters) == limit {
			answer.NextToken = answer.Parameters[limit-1].Name
			break
		}
		answer.Parameters = append(answer.Parameters, a.shown(all[name], in.WithDecryption))
	}
	return answer, nil
}

type deleteRequest struct{ Name string }

func (a *api) deleteParameter(c *service.Call, in *deleteRequest) error {
	if err := a.authorize(c, in.Name); err != nil {
		return err
	}
	return a.store.Change(func(all *parameters) error {
		if _, ok := (*all)[in.Name]; !ok {
			return notFound(in.Name)
		}
		delete(*all, in.Name)
		return nil
	})
}
