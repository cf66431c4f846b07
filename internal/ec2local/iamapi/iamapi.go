// Package iamapi speaks IAM's Query API for the account of package iam: roles with inline policies, instance profiles
// and OIDC providers, which is what the installation of Kip needs.
package iamapi

import (
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// api answers IAM's operations.
type api struct{ account *iam.Account }

// New makes the service.
func New(account *iam.Account, gate *access.Gate, log *slog.Logger) *service.Server {
	a := &api{account: account}
	return &service.Server{
		Prefix: "iam", Protocol: service.Query(query.IAM), Gate: gate, Log: log,
		Operations: map[string]service.Operation{
			"AddRoleToInstanceProfile":      service.Silent(a.addRole),
			"CreateInstanceProfile":         service.Op(a.createProfile),
			"CreateOpenIDConnectProvider":   service.Op(a.createProvider),
			"CreateRole":                    service.Op(a.createRole),
			"DeleteInstanceProfile":         service.Silent(a.deleteProfile),
			"DeleteOpenIDConnectProvider":   service.Silent(a.deleteProvider),
			"DeleteRole":                    service.Silent(a.deleteRole),
			"DeleteRolePolicy":              service.Silent(a.deletePolicy),
			"GetInstanceProfile":            service.Op(a.getProfile),
			"GetOpenIDConnectProvider":      service.Op(a.getProvider),
			"GetRole":                       service.Op(a.getRole),
			"GetRolePolicy":                 service.Op(a.getPolicy),
			"ListAttachedRolePolicies":      service.Op(a.listAttached),
			"ListInstanceProfilesForRole":   service.Op(a.listProfiles),
			"ListOpenIDConnectProviders":    service.Op(a.listProviders),
			"ListRolePolicies":              service.Op(a.listPolicies),
			"PutRolePolicy":                 service.Silent(a.putPolicy),
			"RemoveRoleFromInstanceProfile": service.Silent(a.removeRole),
			"UpdateAssumeRolePolicy":        service.Silent(a.updateTrust),
		},
	}
}

type tag struct {
	Key   string `query:",required"`
	Value string `query:",required"`
}

// tagsOf reads a request's tags.
func tagsOf(list []tag) (map[string]string, error) {
	out := map[string]string{}
	for _, t := range list {
		if _, twice := out[t.Key]; twice || t.Key == "" {
			return nil, service.Errorf(http.StatusBadRequest, "InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		out[t.Key] = t.Value
	}
	return out, nil
}

// members writes tags.
func members(tags map[string]string) *query.Members[tag] {
	if len(tags) == 0 {
		return nil
	}
	out := &query.Members[tag]{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		out.Items = append(out.Items, tag{key, tags[key]})
	}
	return out
}

// tagKeys are the condition keys of what is made with tags.
func tagKeys(tags map[string]string) policy.Keys {
	keys := policy.Keys{}
	if len(tags) > 0 {
		keys.Tags("aws:RequestTag", tags)
		keys.Set("aws:TagKeys", slices.Sorted(maps.Keys(tags))...)
	}
	return keys
}

// resourceKeys are the condition keys of what has tags.
func resourceKeys(tags map[string]string) policy.Keys {
	keys := policy.Keys{}
	keys.Tags("aws:ResourceTag", tags)
	return keys
}

// escape writes a policy as IAM does in answers: percent-encoded.
func escape(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// notTruncated is part of lists, all of which are given at once.
type notTruncated struct {
	IsTruncated bool
}

// listRequest is about a list that belongs to a role.
type listRequest struct {
	Role     string `query:"RoleName,required"`
	MaxItems int
}
