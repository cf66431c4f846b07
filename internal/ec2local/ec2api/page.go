package ec2api

import (
	"encoding/base64"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// paging is embedded in requests whose answer comes in pages.
type paging struct {
	MaxResults *int
	NextToken  string
}

// EC2's bounds of MaxResults.
const (
	minPage = 5
	maxPage = 1000
)

// tokenPrefix keeps tokens of elsewhere from being taken for ours.
const tokenPrefix = "after:"

// page returns the part of the resources that a request asks for, and the token for the next part. key is unique, and
// resources are ordered by it: a token names the last resource that was seen, so pages neither repeat nor leave out a
// resource that was there all the time, whatever else comes and goes.
func page[T any](p paging, resources []T, key func(T) string) (part []T, next string, err error) {
	if p.NextToken != "" {
		raw, err := base64.RawURLEncoding.DecodeString(p.NextToken)
		after, ok := strings.CutPrefix(string(raw), tokenPrefix)
		if err != nil || !ok {
			return nil, "", query.Errorf("InvalidNextToken", "The token '%s' is invalid", p.NextToken)
		}
		for len(resources) > 0 && key(resources[0]) <= after {
			resources = resources[1:]
		}
	}
	if p.MaxResults == nil {
		return resources, "", nil
	}
	n := *p.MaxResults
	if n < minPage || n > maxPage {
		return nil, "", query.Errorf("InvalidParameterValue",
			"Value ( %d ) for parameter maxResults is invalid. Expecting a value from %d to %d.", n, minPage, maxPage)
	}
	if len(resources) <= n {
		return resources, "", nil
	}
	last := key(resources[n-1])
	return resources[:n], base64.RawURLEncoding.EncodeToString([]byte(tokenPrefix + last)), nil
}

// notBoth refuses MaxResults beside a list of IDs.
func (p paging) notBoth(ids []string, parameter string) error {
	if p.MaxResults != nil && len(ids) > 0 {
		return query.Errorf("InvalidParameterCombination",
			"The parameter %s cannot be used with the parameter maxResults", parameter)
	}
	return nil
}
