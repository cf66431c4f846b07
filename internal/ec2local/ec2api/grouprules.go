package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// permissionsRequest is embedded in the four requests about a group's rules. A single rule may be written without a
// list, as it once was.
type permissionsRequest struct {
	dryRun
	GroupID     string              `query:"GroupId"`
	GroupName   string              `query:"GroupName"`
	Permissions []requestPermission `query:"IpPermissions"`

	CIDR     string `query:"CidrIp"`
	Protocol string `query:"IpProtocol"`
	FromPort *int
	ToPort   *int
}

type authorizeRequest struct {
	permissionsRequest
	Tags []tagSpecification `query:"TagSpecification"`
}

type authorizeAnswer struct {
	query.Answer
	Return bool                         `xml:"return"`
	Rules  query.Set[securityGroupRule] `xml:"securityGroupRuleSet"`
}

type securityGroupRule struct {
	ID          string           `xml:"securityGroupRuleId"`
	GroupID     string           `xml:"groupId"`
	OwnerID     string           `xml:"groupOwnerId"`
	Egress      bool             `xml:"isEgress"`
	Protocol    string           `xml:"ipProtocol"`
	FromPort    int              `xml:"fromPort"`
	ToPort      int              `xml:"toPort"`
	CIDR        string           `xml:"cidrIpv4,omitempty"`
	CIDR6       string           `xml:"cidrIpv6,omitempty"`
	Group       *referencedGroup `xml:"referencedGroupInfo"`
	Description string           `xml:"description,omitempty"`
	Tags        query.Set[tag]   `xml:"tagSet"`
}

type referencedGroup struct {
	GroupID string `xml:"groupId"`
	UserID  string `xml:"userId"`
}

type revokeRequest struct {
	permissionsRequest
	RuleIDs []string `query:"SecurityGroupRuleId"`
}

func (a *API) authorizeIngress(in *authorizeRequest) (*authorizeAnswer, error) {
	return a.authorize(in, false)
}

func (a *API) authorizeEgress(in *authorizeRequest) (*authorizeAnswer, error) {
	return a.authorize(in, true)
}

func (a *API) revokeIngress(in *revokeRequest) (*done, error) { return a.revoke(in, false) }

func (a *API) revokeEgress(in *revokeRequest) (*done, error) { return a.revoke(in, true) }

func (a *API) authorize(in *authorizeRequest, egress bool) (*authorizeAnswer, error) {
	if len(in.Tags) > 0 {
		return nil, query.Errorf("Unsupported", "Security group rules cannot be tagged here")
	}
	group, rules, err := a.requestedRules(&in.permissionsRequest)
	if err != nil {
		return nil, err
	}
	if len(rules) == 0 {
		return nil, query.Errorf("MissingParameter", "The request must contain the parameter ipPermissions")
	}
	if rules, err = a.cloud.AddRules(group, egress, rules, in.DryRun); err != nil {
		return nil, err
	}
	answer := &authorizeAnswer{Return: true}
	for _, r := range rules {
		answer.Rules.Items = append(answer.Rules.Items, a.rule(group, egress, r))
	}
	return answer, nil
}

// rule writes one rule. Ports that mean nothing are -1.
func (a *API) rule(groupID string, egress bool, r cloud.Rule) securityGroupRule {
	out := securityGroupRule{
		ID: r.ID, GroupID: groupID, OwnerID: a.cloud.AccountID(), Egress: egress, Protocol: r.Protocol,
		FromPort: deref(r.FromPort, -1), ToPort: deref(r.ToPort, -1),
		CIDR: r.Source.CIDR, CIDR6: r.Source.CIDR6, Description: r.Description,
	}
	if r.Source.GroupID != "" {
		out.Group = &referencedGroup{GroupID: r.Source.GroupID, UserID: a.cloud.AccountID()}
	}
	return out
}

func (a *API) revoke(in *revokeRequest, egress bool) (*done, error) {
	group, rules, err := a.requestedRules(&in.permissionsRequest)
	if err != nil {
		return nil, err
	}
	if len(rules)+len(in.RuleIDs) == 0 {
		return nil, query.Errorf("MissingParameter", "The request must contain the parameter ipPermissions or securityGroupRuleIds")
	}
	return ok(a.cloud.RemoveRules(group, egress, rules, in.RuleIDs, in.DryRun))
}

// requestedRules reads the group and the rules of a request.
func (a *API) requestedRules(in *permissionsRequest) (group string, rules []cloud.Rule, err error) {
	if group, err = a.groupID(in.GroupID, in.GroupName); err != nil {
		return "", nil, err
	}
	permissions := in.Permissions
	if in.CIDR != "" || in.Protocol != "" {
		if len(permissions) > 0 {
			return "", nil, query.Errorf("InvalidParameterCombination", "A rule can be given with or without ipPermissions, not both")
		}
		single := requestPermission{Protocol: in.Protocol, FromPort: in.FromPort, ToPort: in.ToPort}
		single.Ranges = append(single.Ranges, struct {
			CIDR        string `query:"CidrIp,required"`
			Description string
		}{CIDR: in.CIDR})
		permissions = append(permissions, single)
	}
	for _, p := range permissions {
		more, err := a.rules(p)
		if err != nil {
			return "", nil, err
		}
		rules = append(rules, more...)
	}
	return group, rules, nil
}
