package policy

import (
	"slices"
	"strings"
)

// Request is something that somebody is about to do to one resource. A call that touches several makes a request for
// each, and all of them must be allowed.
type Request struct {
	// Action is what is done, such as ec2:RunInstances.
	Action string
	// Resource is the ARN of what it is done to, or * for calls that are not about a resource.
	Resource string
	// Keys are the condition keys.
	Keys Keys
}

// Decision is what policies say to a request.
type Decision int

// Unless something allows a request, and nothing denies it, it is denied.
const (
	// NotAllowed means that nothing allows the request.
	NotAllowed Decision = iota
	// Allowed means that something allows it and nothing denies it.
	Allowed
	// Denied means that a statement denies it, whatever others allow.
	Denied
)

// Evaluate judges a request by all policies that an identity has.
func Evaluate(documents []*Document, r Request) Decision {
	return evaluate(documents, func(s *statement) bool { return s.about(r) })
}

// Trusts judges by a role's trust policy whether a principal may do what the request says: to assume the role.
func (d *Document) Trusts(p Principal, r Request) Decision {
	return evaluate([]*Document{d}, func(s *statement) bool { return s.names(p) && s.about(r) })
}

func evaluate(documents []*Document, applies func(*statement) bool) Decision {
	verdict := NotAllowed
	for _, d := range documents {
		for n := range d.statements {
			s := &d.statements[n]
			switch {
			case !applies(s):
			case s.deny:
				return Denied
			default:
				verdict = Allowed
			}
		}
	}
	return verdict
}

// about tells whether the statement speaks of a request.
func (s *statement) about(r Request) bool {
	action := func(pattern string) bool { return glob(strings.ToLower(pattern), strings.ToLower(r.Action)) }
	resource := func(pattern arn) bool { return pattern.matches(r.Resource) }
	switch {
	case s.actions != nil && !slices.ContainsFunc(s.actions, action), slices.ContainsFunc(s.notActions, action):
		return false
	case s.resources != nil && !slices.ContainsFunc(s.resources, resource), slices.ContainsFunc(s.notResources, resource):
		return false
	}
	return !slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.holds(r.Keys) })
}

// names tells whether a trust policy's statement is about a principal. The root of an account stands for all of it.
func (s *statement) names(p Principal) bool {
	return slices.ContainsFunc(s.principals, func(q Principal) bool {
		if q.Kind != p.Kind {
			return false
		}
		return q.Name == "*" || q.Name == p.Name || p.Kind == "AWS" && accountOf(p.Name) == accountOf(q.Name) &&
			(strings.HasSuffix(q.Name, ":root") || !strings.Contains(q.Name, ":"))
	})
}

// accountOf is the account of an ARN, or the account that stands alone.
func accountOf(name string) string {
	if parts := strings.Split(name, ":"); len(parts) >= arnParts {
		return parts[4]
	}
	return name
}
