package ec2api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeSecurityGroupsRequest struct {
	dryRun
	paging
	IDs     []string `query:"GroupId"`
	Names   []string `query:"GroupName"`
	Filters []filter `query:"Filter"`
}

type describeSecurityGroupsAnswer struct {
	query.Answer
	Groups    query.Set[securityGroup] `xml:"securityGroupInfo"`
	NextToken string                   `xml:"nextToken,omitempty"`
}

type securityGroup struct {
	OwnerID     string                `xml:"ownerId"`
	ID          string                `xml:"groupId"`
	Name        string                `xml:"groupName"`
	Description string                `xml:"groupDescription"`
	VPCID       string                `xml:"vpcId"`
	Ingress     query.Set[permission] `xml:"ipPermissions"`
	Egress      query.Set[permission] `xml:"ipPermissionsEgress"`
	Tags        query.Set[tag]        `xml:"tagSet"`
}

func (a *API) describeSecurityGroups(in *describeSecurityGroupsRequest) (*describeSecurityGroupsAnswer, error) {
	type sg = cloud.SecurityGroup
	if err := in.notBoth(append(slices.Clone(in.IDs), in.Names...), "securityGroupIds"); err != nil {
		return nil, err
	}
	world := a.cloud.World()
	id := func(g sg) string { return g.ID }
	groups := slices.SortedFunc(maps.Values(world.SecurityGroups), func(x, y sg) int { return cmp.Compare(x.ID, y.ID) })
	groups, err := selectByID(groups, in.IDs, "sg", id)
	if err != nil {
		return nil, err
	}
	for _, name := range in.Names {
		if !slices.ContainsFunc(groups, func(g sg) bool { return g.Name == name }) {
			return nil, query.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
		}
	}
	groups = slices.DeleteFunc(groups, func(g sg) bool { return len(in.Names) > 0 && !slices.Contains(in.Names, g.Name) })
	groups, err = selectBy(groups, in.Filters, a.groupFields(world), func(g sg) cloud.Tags { return world.Tags[g.ID] })
	if err != nil {
		return nil, err
	}
	groups, next, err := page(in.paging, groups, id)
	if err != nil {
		return nil, err
	}
	answer := &describeSecurityGroupsAnswer{NextToken: next}
	for _, g := range groups {
		answer.Groups.Items = append(answer.Groups.Items, securityGroup{
			OwnerID: a.cloud.AccountID(), ID: g.ID, Name: g.Name, Description: g.Description, VPCID: world.VPC.ID,
			Ingress: a.permissions(g.Ingress), Egress: a.permissions(g.Egress), Tags: tagSet(world.Tags[g.ID]),
		})
	}
	return answer, nil
}

// groupFields are what security groups can be filtered by.
func (a *API) groupFields(world cloud.World) fields[cloud.SecurityGroup] {
	type sg = cloud.SecurityGroup
	by := fields[sg]{
		"description": one(func(g sg) string { return g.Description }),
		"group-id":    one(func(g sg) string { return g.ID }),
		"group-name":  one(func(g sg) string { return g.Name }),
		"owner-id":    constant[sg](a.cloud.AccountID()),
		"vpc-id":      constant[sg](world.VPC.ID),
	}
	for prefix, rules := range map[string]func(sg) []cloud.Rule{
		"ip-permission.":        func(g sg) []cloud.Rule { return g.Ingress },
		"egress.ip-permission.": func(g sg) []cloud.Rule { return g.Egress },
	} {
		for name, value := range map[string]func(cloud.Rule) string{
			"cidr":      func(r cloud.Rule) string { return r.Source.CIDR },
			"ipv6-cidr": func(r cloud.Rule) string { return r.Source.CIDR6 },
			"group-id":  func(r cloud.Rule) string { return r.Source.GroupID },
			"protocol":  func(r cloud.Rule) string { return r.Protocol },
			"from-port": func(r cloud.Rule) string { return port(r.FromPort) },
			"to-port":   func(r cloud.Rule) string { return port(r.ToPort) },
		} {
			by[prefix+name] = func(g sg) []string {
				var out []string
				for _, r := range rules(g) {
					out = append(out, value(r))
				}
				return out
			}
		}
	}
	return by
}

func port(p *int) string {
	if p == nil {
		return ""
	}
	return fmt.Sprint(*p)
}

type createSecurityGroupRequest struct {
	dryRun
	Name        string             `query:"GroupName,required"`
	Description string             `query:"GroupDescription,required"`
	VPCID       string             `query:"VpcId"`
	Tags        []tagSpecification `query:"TagSpecification"`
}

type createSecurityGroupAnswer struct {
	query.Answer
	ID   string         `xml:"groupId"`
	Tags query.Set[tag] `xml:"tagSet"`
}

const maxGroupText = 255

func (a *API) createSecurityGroup(in *createSecurityGroupRequest) (*createSecurityGroupAnswer, error) {
	if in.VPCID != "" && in.VPCID != a.cloud.World().VPC.ID {
		return nil, cloud.NotFound("vpc", in.VPCID)
	}
	for _, text := range []string{in.Name, in.Description} {
		if text == "" || len(text) > maxGroupText {
			return nil, query.Errorf("InvalidParameterValue", "Name and description must have 1 to %d characters", maxGroupText)
		}
	}
	tags, err := specifiedTags(in.Tags, "security-group")
	if err != nil {
		return nil, err
	}
	id, err := a.cloud.CreateSecurityGroup(in.Name, in.Description, tags["security-group"], in.DryRun)
	return &createSecurityGroupAnswer{ID: id, Tags: tagSet(tags["security-group"])}, err
}

type deleteSecurityGroupRequest struct {
	dryRun
	ID   string `query:"GroupId"`
	Name string `query:"GroupName"`
}

func (a *API) deleteSecurityGroup(in *deleteSecurityGroupRequest) (*done, error) {
	id, err := a.groupID(in.ID, in.Name)
	if err != nil {
		return nil, err
	}
	return ok(a.cloud.DeleteSecurityGroup(id, in.DryRun))
}

// groupID is the ID of the group that a request names in either way.
func (a *API) groupID(id, name string) (string, error) {
	if id != "" || name == "" {
		if id == "" {
			return "", query.Errorf("MissingParameter", "The request must contain the parameter groupName or groupId")
		}
		return id, nil
	}
	for _, g := range a.cloud.World().SecurityGroups {
		if g.Name == name {
			return g.ID, nil
		}
	}
	return "", query.Errorf("InvalidGroup.NotFound", "The security group '%s' does not exist", name)
}
