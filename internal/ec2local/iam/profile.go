package iam

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"net/http"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// CreateProfile makes an instance profile without a role.
func (a *Account) CreateProfile(p Profile) (Profile, error) {
	if p.Path == "" {
		p.Path = "/"
	}
	if err := checkName("instanceProfileName", p.Name); err != nil {
		return p, err
	}
	if err := checkPath(p.Path); err != nil {
		return p, err
	}
	p.ID, p.Created, p.Role = ProfileID(a.ProfileARN(p)), a.cfg.Now().UTC(), ""
	return p, a.store.Change(func(s *state) error {
		if _, ok := s.Profiles[p.Name]; ok {
			return exists("Instance Profile", p.Name)
		}
		s.Profiles[p.Name] = p
		return nil
	})
}

// Profile returns an instance profile by its name.
func (a *Account) Profile(name string) (Profile, error) {
	p, ok := a.store.Now().Profiles[name]
	if !ok {
		return p, noSuch("Instance Profile", name)
	}
	return p, nil
}

// ProfileID is the ID of an instance profile. It follows from the ARN, so that an instance can say it without asking.
func ProfileID(arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return "AIPA" + base32.StdEncoding.EncodeToString(sum[:])[:17]
}

// ResolveProfile finds an instance profile by its ARN or its name. roleARN is "" if it has no role.
func (a *Account) ResolveProfile(nameOrARN string) (arn, roleARN string, ok bool) {
	p, err := a.Profile(nameOrARN)
	if strings.HasPrefix(nameOrARN, "arn:") {
		p, err = a.ProfileByARN(nameOrARN)
	}
	if err != nil {
		return "", "", false
	}
	if r, err := a.Role(p.Role); err == nil {
		roleARN = a.RoleARN(r)
	}
	return a.ProfileARN(p), roleARN, true
}

// ProfileByARN returns an instance profile by its ARN.
func (a *Account) ProfileByARN(arn string) (Profile, error) {
	p, err := a.Profile(arn[strings.LastIndex(arn, "/")+1:])
	if err == nil && a.ProfileARN(p) != arn {
		err = noSuch("Instance Profile", arn)
	}
	return p, err
}

// ProfilesOf returns the instance profiles of a role, by name; of any role if it is "".
func (a *Account) ProfilesOf(role string) []Profile {
	var out []Profile
	for _, p := range a.store.Now().Profiles {
		if role == "" || p.Role == role {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y Profile) int { return cmp.Compare(x.Name, y.Name) })
	return out
}

// AddRole puts a role into an instance profile, which has room for one.
func (a *Account) AddRole(profile, role string) error {
	return a.store.Change(func(s *state) error {
		p, ok := s.Profiles[profile]
		if !ok {
			return noSuch("Instance Profile", profile)
		}
		if _, ok := s.Roles[role]; !ok {
			return noSuch("role", role)
		}
		if p.Role != "" {
			return service.Errorf(http.StatusConflict, "LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1")
		}
		p.Role = role
		s.Profiles[profile] = p
		return nil
	})
}

// RemoveRole takes a role out of an instance profile.
func (a *Account) RemoveRole(profile, role string) error {
	return a.store.Change(func(s *state) error {
		p, ok := s.Profiles[profile]
		if !ok {
			return noSuch("Instance Profile", profile)
		}
		if p.Role != role || role == "" {
			return noSuch("role", role)
		}
		p.Role = ""
		s.Profiles[profile] = p
		return nil
	})
}

// DeleteProfile removes an instance profile without a role.
func (a *Account) DeleteProfile(name string) error {
	return a.store.Change(func(s *state) error {
		p, ok := s.Profiles[name]
		if !ok {
			return noSuch("Instance Profile", name)
		}
		if p.Role != "" {
			return conflict("Cannot delete entity, must remove roles from instance profile first.")
		}
		delete(s.Profiles, name)
		return nil
	})
}
