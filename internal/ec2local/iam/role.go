package iam

import (
	"maps"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// IAM's limits on a role.
const (
	minSession       = time.Hour
	maxSession       = 12 * time.Hour
	maxTrust         = 2048  // characters besides white space
	maxInlinePolices = 10240 // characters besides white space, of all policies together
)

// CreateRole makes a role without policies. Path and MaxSession have defaults.
func (a *Account) CreateRole(r Role) (Role, error) {
	if r.Path == "" {
		r.Path = "/"
	}
	if r.MaxSession == 0 {
		r.MaxSession = minSession
	}
	if err := checkName("roleName", r.Name); err != nil {
		return r, err
	}
	if err := checkPath(r.Path); err != nil {
		return r, err
	}
	if r.MaxSession < minSession || r.MaxSession > maxSession {
		return r, service.Errorf(http.StatusBadRequest, "ValidationError", "MaxSessionDuration must be from 3600 to 43200 seconds")
	}
	if err := checkTrust(r.Trust); err != nil {
		return r, err
	}
	r.ID, r.Created, r.Policies = newID("AROA"), a.cfg.Now().UTC(), map[string]string{}
	return r, a.store.Change(func(s *state) error {
		if _, ok := s.Roles[r.Name]; ok {
			return exists("Role", r.Name)
		}
		s.Roles[r.Name] = r
		return nil
	})
}

func checkTrust(text string) error {
	if _, err := policy.ParseTrust([]byte(text)); err != nil {
		return malformed(err)
	}
	if size(text) > maxTrust {
		return service.Errorf(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for ACLSizePerRole: %d", maxTrust)
	}
	return nil
}

// size is what IAM counts of a policy: characters besides white space.
func size(text string) int {
	return len(strings.Join(strings.FieldsFunc(text, unicode.IsSpace), ""))
}

// Role returns a role by its name.
func (a *Account) Role(name string) (Role, error) {
	r, ok := a.store.Now().Roles[name]
	if !ok {
		return r, noSuch("role", name)
	}
	return r, nil
}

// changeRole replaces a role by a changed one.
func (a *Account) changeRole(name string, edit func(*Role) error) error {
	return a.store.Change(func(s *state) error {
		r, ok := s.Roles[name]
		if !ok {
			return noSuch("role", name)
		}
		r.Policies = maps.Clone(r.Policies)
		if err := edit(&r); err != nil {
			return err
		}
		s.Roles[name] = r
		return nil
	})
}

// SetTrust replaces a role's trust policy.
func (a *Account) SetTrust(role, text string) error {
	if err := checkTrust(text); err != nil {
		return err
	}
	return a.changeRole(role, func(r *Role) error { r.Trust = text; return nil })
}

// PutPolicy adds an inline policy to a role, or replaces it.
func (a *Account) PutPolicy(role, name, text string) error {
	if err := checkName("policyName", name); err != nil {
		return err
	}
	if _, err := policy.Parse([]byte(text)); err != nil {
		return malformed(err)
	}
	return a.changeRole(role, func(r *Role) error {
		r.Policies[name] = text
		total := 0
		for _, text := range r.Policies {
			total += size(text)
		}
		if total > maxInlinePolices {
			return service.Errorf(http.StatusConflict, "LimitExceeded", "Maximum policy size of %d bytes exceeded for role %s", maxInlinePolices, role)
		}
		return nil
	})
}

// DeletePolicy removes an inline policy of a role.
func (a *Account) DeletePolicy(role, name string) error {
	return a.changeRole(role, func(r *Role) error {
		if _, ok := r.Policies[name]; !ok {
			return noSuch("role policy", name)
		}
		delete(r.Policies, name)
		return nil
	})
}

// Policy returns the text of an inline policy of a role.
func (a *Account) Policy(role, name string) (string, error) {
	r, err := a.Role(role)
	if err != nil {
		return "", err
	}
	text, ok := r.Policies[name]
	if !ok {
		return "", noSuch("role policy", name)
	}
	return text, nil
}

// DeleteRole removes a role that has no policies and is in no instance profile.
func (a *Account) DeleteRole(name string) error {
	return a.store.Change(func(s *state) error {
		r, ok := s.Roles[name]
		if !ok {
			return noSuch("role", name)
		}
		if len(r.Policies) > 0 {
			return conflict("Cannot delete entity, must delete policies first.")
		}
		for _, p := range s.Profiles {
			if p.Role == name {
				return conflict("Cannot delete entity, must remove roles from instance profile first.")
			}
		}
		delete(s.Roles, name)
		return nil
	})
}
