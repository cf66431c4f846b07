package ec2api

import (
	"cmp"
	"strings"

	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type createTagsRequest struct {
	dryRun
	ResourceIDs []string     `query:"ResourceId,required"`
	Tags        []requestTag `query:"Tag,required"`
}

func (a *API) createTags(in *createTagsRequest) (*done, error) {
	change := cloud.TagChange{Set: cloud.Tags{}}
	for _, t := range in.Tags {
		change.Set[t.Key] = deref(t.Value, "")
	}
	return ok(a.cloud.ChangeTags(in.ResourceIDs, change, in.DryRun))
}

type deleteTagsRequest struct {
	dryRun
	ResourceIDs []string     `query:"ResourceId,required"`
	Tags        []requestTag `query:"Tag"`
}

func (a *API) deleteTags(in *deleteTagsRequest) (*done, error) {
	change := cloud.TagChange{Remove: map[string]*string{}, RemoveAll: len(in.Tags) == 0}
	for _, t := range in.Tags {
		change.Remove[t.Key] = t.Value
	}
	return ok(a.cloud.ChangeTags(in.ResourceIDs, change, in.DryRun))
}

type describeTagsRequest struct {
	dryRun
	paging
	Filters []filter `query:"Filter"`
}

type describeTagsAnswer struct {
	query.Answer
	Tags      query.Set[tagDescription] `xml:"tagSet"`
	NextToken string                    `xml:"nextToken,omitempty"`
}

type tagDescription struct {
	ResourceID   string `xml:"resourceId"`
	ResourceType string `xml:"resourceType"`
	Key          string `xml:"key"`
	Value        string `xml:"value"`
}

// resourceTypes are the kinds of resources by the prefix of their IDs.
var resourceTypes = map[string]string{
	"ami": "image", "eni": "network-interface", "i": "instance", "igw": "internet-gateway", "rtb": "route-table",
	"sg": "security-group", "snap": "snapshot", "subnet": "subnet", "vol": "volume", "vpc": "vpc",
}

func (a *API) describeTags(in *describeTagsRequest) (*describeTagsAnswer, error) {
	var all []tagDescription
	add := func(id string, tags cloud.Tags) {
		prefix, _, _ := strings.Cut(id, "-")
		for key, value := range tags {
			all = append(all, tagDescription{ResourceID: id, ResourceType: resourceTypes[prefix], Key: key, Value: value})
		}
	}
	for id, tags := range a.cloud.World().Tags {
		add(id, tags)
	}
	for _, i := range a.cloud.Instances() {
		add(i.ID, i.Tags)
		if i.HasMachine() {
			add(i.Interface.ID, i.Interface.Tags)
			add(i.Volume.ID, i.Volume.Tags)
		}
	}
	slices.SortFunc(all, func(x, y tagDescription) int { return cmp.Compare(tagID(x), tagID(y)) })
	all, err := selectBy(all, in.Filters, tagFields, func(t tagDescription) cloud.Tags { return cloud.Tags{t.Key: t.Value} })
	if err != nil {
		return nil, err
	}
	all, next, err := page(in.paging, all, tagID)
	if err != nil {
		return nil, err
	}
	return &describeTagsAnswer{Tags: query.SetOf(all...), NextToken: next}, nil
}

// tagID orders tags.
func tagID(t tagDescription) string { return t.ResourceID + "/" + t.Key }

var tagFields = fields[tagDescription]{
	"key":           one(func(t tagDescription) string { return t.Key }),
	"resource-id":   one(func(t tagDescription) string { return t.ResourceID }),
	"resource-type": one(func(t tagDescription) string { return t.ResourceType }),
	"value":         one(func(t tagDescription) string { return t.Value }),
}
