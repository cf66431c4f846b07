package iamapi

import (
	"maps"
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

type role struct {
	Path        string
	Name        string     `xml:"RoleName"`
	ID          string     `xml:"RoleId"`
	ARN         string     `xml:"Arn"`
	Created     query.Time `xml:"CreateDate"`
	Trust       string     `xml:"AssumeRolePolicyDocument"`
	Description string     `xml:"Description,omitempty"`
	MaxSession  int        `xml:"MaxSessionDuration,omitempty"`
	Tags        *query.Members[tag]
}

func (a *api) role(r iam.Role) role {
	return role{
		Path: r.Path, Name: r.Name, ID: r.ID, ARN: a.account.RoleARN(r), Created: query.Time(r.Created),
		Trust: escape(r.Trust), Description: r.Description, MaxSession: int(r.MaxSession / time.Second), Tags: members(r.Tags),
	}
}

// authorizeRole asks for the operation on a role, which may not exist.
func (a *api) authorizeRole(c *service.Call, name string) error {
	r, err := a.account.Role(name)
	if err != nil {
		r = iam.Role{Path: "/", Name: name}
	}
	return c.Authorize(a.account.RoleARN(r), resourceKeys(r.Tags))
}

type createRoleRequest struct {
	Path        string
	Name        string `query:"RoleName,required"`
	Trust       string `query:"AssumeRolePolicyDocument,required"`
	Description string
	MaxSession  int   `query:"MaxSessionDuration"`
	Tags        []tag `query:"Tags.member"`
}

type roleAnswer struct{ Role role }

func (a *api) createRole(c *service.Call, in *createRoleRequest) (*roleAnswer, error) {
	tags, err := tagsOf(in.Tags)
	if err != nil {
		return nil, err
	}
	r := iam.Role{
		Path: in.Path, Name: in.Name, Trust: in.Trust, Description: in.Description, Tags: tags,
		MaxSession: time.Duration(in.MaxSession) * time.Second,
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if err := c.Authorize(a.account.RoleARN(r), tagKeys(tags)); err != nil {
		return nil, err
	}
	if r, err = a.account.CreateRole(r); err != nil {
		return nil, err
	}
	return &roleAnswer{a.role(r)}, nil
}

type roleRequest struct {
	Name string `query:"RoleName,required"`
}

func (a *api) getRole(c *service.Call, in *roleRequest) (*roleAnswer, error) {
	if err := a.authorizeRole(c, in.Name); err != nil {
		return nil, err
	}
	r, err := a.account.Role(in.Name)
	if err != nil {
		return nil, err
	}
	return &roleAnswer{a.role(r)}, nil
}

func (a *api) deleteRole(c *service.Call, in *roleRequest) error {
	if err := a.authorizeRole(c, in.Name); err != nil {
		return err
	}
	return a.account.DeleteRole(in.Name)
}

type updateTrustRequest struct {
	Role  string `query:"RoleName,required"`
	Trust string `query:"PolicyDocument,required"`
}

func (a *api) updateTrust(c *service.Call, in *updateTrustRequest) error {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return err
	}
	return a.account.SetTrust(in.Role, in.Trust)
}

type policyRequest struct {
	Role   string `query:"RoleName,required"`
	Policy string `query:"PolicyName,required"`
}

type putPolicyRequest struct {
	policyRequest
	Document string `query:"PolicyDocument,required"`
}

func (a *api) putPolicy(c *service.Call, in *putPolicyRequest) error {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return err
	}
	return a.account.PutPolicy(in.Role, in.Policy, in.Document)
}

type policyAnswer struct {
	Role     string `xml:"RoleName"`
	Policy   string `xml:"PolicyName"`
	Document string `xml:"PolicyDocument"`
}

func (a *api) getPolicy(c *service.Call, in *policyRequest) (*policyAnswer, error) {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return nil, err
	}
	text, err := a.account.Policy(in.Role, in.Policy)
	return &policyAnswer{in.Role, in.Policy, escape(text)}, err
}

func (a *api) deletePolicy(c *service.Call, in *policyRequest) error {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return err
	}
	return a.account.DeletePolicy(in.Role, in.Policy)
}

type policiesAnswer struct {
	Names query.Members[string] `xml:"PolicyNames"`
	notTruncated
}

func (a *api) listPolicies(c *service.Call, in *listRequest) (*policiesAnswer, error) {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return nil, err
	}
	r, err := a.account.Role(in.Role)
	if err != nil {
		return nil, err
	}
	return &policiesAnswer{Names: query.Members[string]{Items: slices.Sorted(maps.Keys(r.Policies))}}, nil
}

type attachedAnswer struct {
	Policies query.Members[struct{}] `xml:"AttachedPolicies"`
	notTruncated
}

// listAttached is what whoever empties a role asks for as well. There are no managed policies here, so it is empty.
func (a *api) listAttached(c *service.Call, in *listRequest) (*attachedAnswer, error) {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return nil, err
	}
	_, err := a.account.Role(in.Role)
	return &attachedAnswer{}, err
}
