package cloud

import (
	"maps"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// SecurityGroup is a security group of the VPC. Its tags are the world's.
type SecurityGroup struct {
	ID, Name, Description string
	Ingress, Egress       []Rule
}

// Rule lets traffic of one kind from or to one source pass.
type Rule struct {
	ID string
	// Protocol is tcp, udp, icmp, icmpv6, a number, or -1 for all.
	Protocol string
	// FromPort and ToPort are a range of ports, or an ICMP type and code; nil for protocols without.
	FromPort, ToPort *int
	Source           Source
	Description      string
}

// Source is where traffic comes from, or goes to: exactly one field is set.
type Source struct{ CIDR, CIDR6, GroupID string }

// same tells whether two rules let the same pass.
func (r *Rule) same(o Rule) bool {
	equal := func(a, b *int) bool { return a == b || a != nil && b != nil && *a == *b }
	return r.Protocol == o.Protocol && r.Source == o.Source && equal(r.FromPort, o.FromPort) && equal(r.ToPort, o.ToPort)
}

const (
	defaultGroup  = "default"
	maxGroups     = 5
	maxGroupRules = 60
)

// everywhere is the rule that each new group has for traffic that leaves.
func everywhere(id string) Rule {
	return Rule{ID: id, Protocol: "-1", Source: Source{CIDR: "0.0.0.0/0"}}
}

// defaultGroup is the group of instances that name none. c.mu is held.
func (c *Cloud) defaultGroup() SecurityGroup {
	for _, g := range c.world.SecurityGroups {
		if g.Name == defaultGroup {
			return g
		}
	}
	return SecurityGroup{}
}

// checkGroups refuses groups that an interface cannot have. c.mu is held.
func (c *Cloud) checkGroups(ids []string) error {
	if len(ids) > maxGroups {
		return query.Errorf("SecurityGroupsPerInterfaceLimitExceeded",
			"You have exceeded the maximum number of security groups per interface: %d", maxGroups)
	}
	for _, id := range ids {
		if _, ok := c.world.SecurityGroups[id]; !ok {
			return NotFound("sg", id)
		}
	}
	return nil
}

// CreateSecurityGroup makes a group that lets nothing in and everything out.
func (c *Cloud) CreateSecurityGroup(name, description string, tags Tags, dryRun bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.world.SecurityGroups {
		if g.Name == name {
			return "", query.Errorf("InvalidGroup.Duplicate",
				"The security group '%s' already exists for VPC '%s'", name, c.world.VPC.ID)
		}
	}
	if dryRun {
		return "", ErrDryRun()
	}
	id, err := c.newID("sg")
	if err != nil {
		return "", err
	}
	rule, err := c.newID("sgr")
	if err != nil {
		return "", err
	}
	g := SecurityGroup{ID: id, Name: name, Description: description, Egress: []Rule{everywhere(rule)}}
	return id, c.changeWorld(func(w *World) {
		w.SecurityGroups = maps.Clone(w.SecurityGroups)
		w.SecurityGroups[id] = g
		w.Tags = maps.Clone(w.Tags)
		w.Tags[id] = tags
	})
}

// DeleteSecurityGroup removes a group that nothing uses.
func (c *Cloud) DeleteSecurityGroup(id string, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.world.SecurityGroups[id]
	if !ok {
		return NotFound("sg", id)
	}
	if g.Name == defaultGroup {
		return query.Errorf("CannotDelete", "the specified group: %q name: %q cannot be deleted by a user", id, g.Name)
	}
	for _, i := range c.instances {
		if i.HasMachine() && slices.Contains(i.Interface.Groups, id) {
			return query.Errorf("DependencyViolation", "resource %s has a dependent object", id)
		}
	}
	for _, other := range c.world.SecurityGroups {
		refers := func(r Rule) bool { return r.Source.GroupID == id }
		if other.ID != id && (slices.ContainsFunc(other.Ingress, refers) || slices.ContainsFunc(other.Egress, refers)) {
			return query.Errorf("DependencyViolation", "resource %s has a dependent object", id)
		}
	}
	if dryRun {
		return ErrDryRun()
	}
	return c.changeWorld(func(w *World) {
		w.SecurityGroups = maps.Clone(w.SecurityGroups)
		delete(w.SecurityGroups, id)
		w.dropTags(id)
	})
}

// AddRules adds rules to a group and returns them with their IDs. A rule that is there already is refused.
func (c *Cloud) AddRules(group string, egress bool, rules []Rule, dryRun bool) ([]Rule, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.world.SecurityGroups[group]
	if !ok {
		return nil, NotFound("sg", group)
	}
	have := slices.Clone(*g.rules(egress))
	for n, rule := range rules {
		if _, ok := c.world.SecurityGroups[rule.Source.GroupID]; rule.Source.GroupID != "" && !ok {
			return nil, NotFound("sg", rule.Source.GroupID)
		}
		if slices.ContainsFunc(have, rule.same) {
			return nil, query.Errorf("InvalidPermission.Duplicate", "the specified rule already exists in %s", group)
		}
		id, err := c.newID("sgr")
		if err != nil {
			return nil, err
		}
		rules[n].ID, rule.ID = id, id
		have = append(have, rule)
	}
	if len(have) > maxGroupRules {
		return nil, query.Errorf("RulesPerSecurityGroupLimitExceeded",
			"The maximum number of rules per security group has been reached: %d", maxGroupRules)
	}
	if dryRun {
		return nil, ErrDryRun()
	}
	return rules, c.setRules(g, egress, have)
}

// RemoveRules removes rules from a group, by what they let pass or by ID. Outside a default VPC, EC2 refuses rules that
// do not exist, and so does this.
func (c *Cloud) RemoveRules(group string, egress bool, rules []Rule, ids []string, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.world.SecurityGroups[group]
	if !ok {
		return NotFound("sg", group)
	}
	have := slices.Clone(*g.rules(egress))
	for _, rule := range rules {
		n := slices.IndexFunc(have, rule.same)
		if n < 0 {
			return query.Errorf("InvalidPermission.NotFound",
				"The specified rule does not exist in this security group.")
		}
		have = slices.Delete(have, n, n+1)
	}
	for _, id := range ids {
		n := slices.IndexFunc(have, func(r Rule) bool { return r.ID == id })
		if n < 0 {
			return NotFound("sgr", id)
		}
		have = slices.Delete(have, n, n+1)
	}
	if dryRun {
		return ErrDryRun()
	}
	return c.setRules(g, egress, have)
}

func (g *SecurityGroup) rules(egress bool) *[]Rule {
	if egress {
		return &g.Egress
	}
	return &g.Ingress
}

func (c *Cloud) setRules(g SecurityGroup, egress bool, rules []Rule) error {
	*g.rules(egress) = rules
	return c.changeWorld(func(w *World) {
		w.SecurityGroups = maps.Clone(w.SecurityGroups)
		w.SecurityGroups[g.ID] = g
	})
}
