package ec2api

import (
	"cmp"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Profiles are the account's instance profiles.
type Profiles interface {
	// ResolveProfile finds an instance profile by its ARN or name. roleARN is "" if it has no role.
	ResolveProfile(nameOrARN string) (arn, roleARN string, ok bool)
}

// passRole is what a request touches that hands the role of an instance profile to EC2; nothing if there is none.
func (a *API) passRole(nameOrARN string) []touched {
	_, role, ok := a.profiles.ResolveProfile(nameOrARN)
	if !ok || role == "" {
		return nil
	}
	keys := policy.Keys{}
	keys.Set("iam:PassedToService", "ec2.amazonaws.com")
	return []touched{{action: "iam:PassRole", arn: role, keys: keys}}
}

// requestProfile is an instance profile in a request: one of the two.
type requestProfile struct {
	ARN  string `query:"Arn"`
	Name string
}

// nameOrARN is what the request says; "" if it names no profile.
func (p requestProfile) nameOrARN() (string, error) {
	if p.Name != "" && p.ARN != "" {
		return "", query.Errorf("InvalidParameterCombination",
			"The parameters 'iamInstanceProfile.name' and 'iamInstanceProfile.arn' may not be used in combination")
	}
	return cmp.Or(p.ARN, p.Name), nil
}

// profileARN is the ARN of the instance profile that a request names; "" if it names none.
func (a *API) profileARN(p requestProfile) (string, error) {
	value, err := p.nameOrARN()
	if err != nil || value == "" {
		return "", err
	}
	parameter := "iamInstanceProfile.arn"
	if p.Name != "" {
		parameter = "iamInstanceProfile.name"
	}
	found, role, ok := a.profiles.ResolveProfile(value)
	switch {
	case !ok:
		return "", query.Errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. Invalid IAM Instance Profile", value, parameter)
	case role == "":
		return "", query.Errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. IAM Instance Profile %q has no associated IAM Roles", value, parameter, found)
	}
	return found, nil
}
