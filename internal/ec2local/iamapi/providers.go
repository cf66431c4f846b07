package iamapi

import (
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

type createProviderRequest struct {
	URL         string   `query:"Url,required"`
	ClientIDs   []string `query:"ClientIDList.member"`
	Thumbprints []string `query:"ThumbprintList.member"`
	Tags        []tag    `query:"Tags.member"`
}

type createProviderAnswer struct {
	ARN  string `xml:"OpenIDConnectProviderArn"`
	Tags *query.Members[tag]
}

func (a *api) createProvider(c *service.Call, in *createProviderRequest) (*createProviderAnswer, error) {
	tags, err := tagsOf(in.Tags)
	if err != nil {
		return nil, err
	}
	p := iam.Provider{URL: strings.TrimPrefix(in.URL, "https://"), ClientIDs: in.ClientIDs, Thumbprints: in.Thumbprints, Tags: tags}
	if err := c.Authorize(a.account.ProviderARN(p), tagKeys(tags)); err != nil {
		return nil, err
	}
	p.URL = in.URL
	if p, err = a.account.CreateProvider(p); err != nil {
		return nil, err
	}
	return &createProviderAnswer{ARN: a.account.ProviderARN(p), Tags: members(tags)}, nil
}

type providerRequest struct {
	ARN string `query:"OpenIDConnectProviderArn,required"`
}

type providerAnswer struct {
	URL         string                `xml:"Url"`
	ClientIDs   query.Members[string] `xml:"ClientIDList"`
	Thumbprints query.Members[string] `xml:"ThumbprintList"`
	Created     query.Time            `xml:"CreateDate"`
	Tags        *query.Members[tag]
}

func (a *api) getProvider(c *service.Call, in *providerRequest) (*providerAnswer, error) {
	if err := c.Authorize(in.ARN, nil); err != nil {
		return nil, err
	}
	p, err := a.account.Provider(in.ARN)
	if err != nil {
		return nil, err
	}
	return &providerAnswer{
		URL: p.URL, ClientIDs: query.Members[string]{Items: p.ClientIDs}, Thumbprints: query.Members[string]{Items: p.Thumbprints},
		Created: query.Time(p.Created), Tags: members(p.Tags),
	}, nil
}

func (a *api) deleteProvider(c *service.Call, in *providerRequest) error {
	if err := c.Authorize(in.ARN, nil); err != nil {
		return err
	}
	return a.account.DeleteProvider(in.ARN)
}

type providersAnswer struct {
	List query.Members[providerEntry] `xml:"OpenIDConnectProviderList"`
}

type providerEntry struct {
	ARN string `xml:"Arn"`
}

func (a *api) listProviders(c *service.Call, _ *struct{}) (*providersAnswer, error) {
	if err := c.Authorize("*", nil); err != nil {
		return nil, err
	}
	answer := &providersAnswer{}
	for _, p := range a.account.Providers() {
		answer.List.Items = append(answer.List.Items, providerEntry{a.account.ProviderARN(p)})
	}
	return answer, nil
}
