package ec2api

import (
	"maps"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// tag is a tag in an answer.
type tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func tagSet(tags cloud.Tags) query.Set[tag] {
	var out query.Set[tag]
	for _, key := range sortedKeys(tags) {
		out.Items = append(out.Items, tag{Key: key, Value: tags[key]})
	}
	return out
}

func sortedKeys(tags cloud.Tags) []string { return slices.Sorted(maps.Keys(tags)) }

// group names a security group in an answer.
type group struct {
	ID   string `xml:"groupId"`
	Name string `xml:"groupName"`
}

// groupSet names groups by ID.
func groupSet(ids []string, w cloud.World) query.Set[group] {
	var out query.Set[group]
	for _, id := range ids {
		out.Items = append(out.Items, group{ID: id, Name: w.SecurityGroups[id].Name})
	}
	return out
}

// reason says why something is in its state.
type reason struct {
	Code    string `xml:"code"`
	Message string `xml:"message"`
}

// requestTag is a tag in a request.
type requestTag struct {
	Key   string
	Value *string
}

// tagSpecification are tags for what a request makes.
type tagSpecification struct {
	ResourceType string       `query:"ResourceType,required"`
	Tags         []requestTag `query:"Tag"`
}

// specifiedTags sorts the tags of a request by the kind of resource, of which only those given make sense.
func specifiedTags(specs []tagSpecification, kinds ...string) (map[string]cloud.Tags, error) {
	out := map[string]cloud.Tags{}
	for _, s := range specs {
		if !slices.Contains(kinds, s.ResourceType) {
			return nil, query.Errorf("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", s.ResourceType)
		}
		if out[s.ResourceType] == nil {
			out[s.ResourceType] = cloud.Tags{}
		}
		for _, t := range s.Tags {
			if _, twice := out[s.ResourceType][t.Key]; twice {
				return nil, query.Errorf("InvalidParameterValue", "Duplicate tag key '%s' specified.", t.Key)
			}
			out[s.ResourceType][t.Key] = deref(t.Value, "")
		}
	}
	for _, kind := range kinds {
		if err := cloud.CheckTags(out[kind]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// deref returns what p points to, or the default if it is nil.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
