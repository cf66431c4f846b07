package iamapi

import (
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

type profile struct {
	Path    string
	Name    string     `xml:"InstanceProfileName"`
	ID      string     `xml:"InstanceProfileId"`
	ARN     string     `xml:"Arn"`
	Created query.Time `xml:"CreateDate"`
	Roles   query.Members[role]
	Tags    *query.Members[tag]
}

func (a *api) profile(p iam.Profile) profile {
	out := profile{
		Path: p.Path, Name: p.Name, ID: p.ID, ARN: a.account.ProfileARN(p), Created: query.Time(p.Created), Tags: members(p.Tags),
	}
	if r, err := a.account.Role(p.Role); err == nil {
		out.Roles.Items = append(out.Roles.Items, a.role(r))
	}
	return out
}

// authorizeProfile asks for the operation on an instance profile, which may not exist.
func (a *api) authorizeProfile(c *service.Call, name string) error {
	p, err := a.account.Profile(name)
	if err != nil {
		p = iam.Profile{Path: "/", Name: name}
	}
	return c.Authorize(a.account.ProfileARN(p), resourceKeys(p.Tags))
}

type createProfileRequest struct {
	Name string `query:"InstanceProfileName,required"`
	Path string
	Tags []tag `query:"Tags.member"`
}

type profileAnswer struct {
	Profile profile `xml:"InstanceProfile"`
}

func (a *api) createProfile(c *service.Call, in *createProfileRequest) (*profileAnswer, error) {
	tags, err := tagsOf(in.Tags)
	if err != nil {
		return nil, err
	}
	p := iam.Profile{Name: in.Name, Path: in.Path, Tags: tags}
	if p.Path == "" {
		p.Path = "/"
	}
	if err := c.Authorize(a.account.ProfileARN(p), tagKeys(tags)); err != nil {
		return nil, err
	}
	if p, err = a.account.CreateProfile(p); err != nil {
		return nil, err
	}
	return &profileAnswer{a.profile(p)}, nil
}

type profileRequest struct {
	Name string `query:"InstanceProfileName,required"`
}

func (a *api) getProfile(c *service.Call, in *profileRequest) (*profileAnswer, error) {
	if err := a.authorizeProfile(c, in.Name); err != nil {
		return nil, err
	}
	p, err := a.account.Profile(in.Name)
	if err != nil {
		return nil, err
	}
	return &profileAnswer{a.profile(p)}, nil
}

func (a *api) deleteProfile(c *service.Call, in *profileRequest) error {
	if err := a.authorizeProfile(c, in.Name); err != nil {
		return err
	}
	return a.account.DeleteProfile(in.Name)
}

type profileRoleRequest struct {
	Profile string `query:"InstanceProfileName,required"`
	Role    string `query:"RoleName,required"`
}

// addRole hands the role over to EC2, which takes iam:PassRole as well.
func (a *api) addRole(c *service.Call, in *profileRoleRequest) error {
	if err := a.authorizeProfile(c, in.Profile); err != nil {
		return err
	}
	r, err := a.account.Role(in.Role)
	if err != nil {
		return err
	}
	if err := c.Caller.Authorize(policy.Request{Action: "iam:PassRole", Resource: a.account.RoleARN(r)}); err != nil {
		return err
	}
	return a.account.AddRole(in.Profile, in.Role)
}

func (a *api) removeRole(c *service.Call, in *profileRoleRequest) error {
	if err := a.authorizeProfile(c, in.Profile); err != nil {
		return err
	}
	return a.account.RemoveRole(in.Profile, in.Role)
}

type profilesAnswer struct {
	Profiles query.Members[profile] `xml:"InstanceProfiles"`
	notTruncated
}

func (a *api) listProfiles(c *service.Call, in *listRequest) (*profilesAnswer, error) {
	if err := a.authorizeRole(c, in.Role); err != nil {
		return nil, err
	}
	if _, err := a.account.Role(in.Role); err != nil {
		return nil, err
	}
	answer := &profilesAnswer{}
	for _, p := range a.account.ProfilesOf(in.Role) {
		answer.Profiles.Items = append(answer.Profiles.Items, a.profile(p))
	}
	return answer, nil
}
