package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	strictjson "sigs.k8s.io/json"
)

// Document is a policy that was understood as a whole.
type Document struct{ statements []statement }

type statement struct {
	deny bool
	// Of each pair at most one is set.
	actions, notActions     []string
	resources, notResources []arn
	principals              []Principal // of trust policies
	conditions              []condition
}

// Principal is who a trust policy speaks of: a kind (AWS, Service or Federated) and a name, or * for everybody.
type Principal struct{ Kind, Name string }

// What a document looks like. Lists of one may be written without brackets.
type (
	rawDocument struct {
		Version   string
		ID        string `json:"Id"`
		Statement json.RawMessage
	}
	rawStatement struct {
		Sid                   string
		Effect                string
		Principal             json.RawMessage
		Action, NotAction     texts
		Resource, NotResource texts
		Condition             map[string]map[string]texts
	}
)

// texts is a list of strings. Numbers and truth values count as what they look like.
type texts []string

// UnmarshalJSON implements [json.Unmarshaler].
func (t *texts) UnmarshalJSON(raw []byte) error {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		list = []json.RawMessage{raw}
	}
	*t = texts{}
	for _, item := range list {
		var v any
		if err := json.Unmarshal(item, &v); err != nil {
			return err
		}
		switch v := v.(type) {
		case string:
			*t = append(*t, v)
		case bool, float64:
			*t = append(*t, string(item))
		default:
			return fmt.Errorf("%s is not a string", item)
		}
	}
	return nil
}

// Parse reads a policy of an identity.
func Parse(raw []byte) (*Document, error) { return parse(raw, (*statement).readIdentity) }

// ParseTrust reads the policy that says who may assume a role.
func ParseTrust(raw []byte) (*Document, error) { return parse(raw, (*statement).readTrust) }

func parse(raw []byte, rest func(*statement, rawStatement) error) (*Document, error) {
	var in rawDocument
	if err := unmarshal(raw, &in); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"", "2008-10-17", "2012-10-17"}, in.Version) {
		return nil, fmt.Errorf("the version %q is not one of 2012-10-17 and 2008-10-17", in.Version)
	}
	var list []json.RawMessage
	if json.Unmarshal(in.Statement, &list) != nil {
		list = []json.RawMessage{in.Statement}
	}
	if len(list) == 0 || len(in.Statement) == 0 {
		return nil, errors.New("there is no Statement")
	}
	d := &Document{}
	sids := map[string]bool{}
	for n, item := range list {
		var s rawStatement
		err := unmarshal(item, &s)
		var out statement
		if err == nil {
			err = errors.Join(out.read(s), rest(&out, s))
		}
		if err == nil && s.Sid != "" && sids[s.Sid] {
			err = fmt.Errorf("the Sid %s is there twice", s.Sid)
		}
		if err != nil {
			return nil, fmt.Errorf("statement %d: %w", n+1, err)
		}
		sids[s.Sid] = true
		d.statements = append(d.statements, out)
	}
	return d, nil
}

// unmarshal reads JSON in which everything is known, written as in the documentation, and there once.
func unmarshal(raw []byte, into any) error {
	if len(raw) == 0 {
		return errors.New("the document is empty")
	}
	problems, err := strictjson.UnmarshalStrict(raw, into)
	if err != nil {
		return err
	}
	return errors.Join(problems...)
}

var sid = regexp.MustCompile(`^[A-Za-z0-9]*$`)

// read reads what all statements have.
func (s *statement) read(in rawStatement) error {
	switch {
	case !sid.MatchString(in.Sid):
		return fmt.Errorf("the Sid %q has other characters than A-Z, a-z and 0-9", in.Sid)
	case in.Effect != "Allow" && in.Effect != "Deny":
		return fmt.Errorf("the Effect %q is neither Allow nor Deny", in.Effect)
	case (len(in.Action) == 0) == (len(in.NotAction) == 0):
		return errors.New("exactly one of Action and NotAction is needed")
	}
	s.deny = in.Effect == "Deny"
	for _, action := range append(slices.Clone(in.Action), in.NotAction...) {
		if err := checkAction(action); err != nil {
			return err
		}
	}
	s.actions, s.notActions = in.Action, in.NotAction
	return nil
}

var actionName = regexp.MustCompile(`^[A-Za-z0-9-]+:[A-Za-z0-9*?]+$`)

func checkAction(action string) error {
	if action != "*" && !actionName.MatchString(action) {
		return fmt.Errorf("the action %q must be * or begin with a service, as in ec2:RunInstances", action)
	}
	return nil
}

// readIdentity reads what only statements about an identity have.
func (s *statement) readIdentity(in rawStatement) error {
	if in.Principal != nil {
		return errors.New("a policy of an identity has no Principal")
	}
	if (len(in.Resource) == 0) == (len(in.NotResource) == 0) {
		return errors.New("exactly one of Resource and NotResource is needed")
	}
	var err error
	if s.resources, err = parseARNs(in.Resource); err != nil {
		return err
	}
	if s.notResources, err = parseARNs(in.NotResource); err != nil {
		return err
	}
	s.conditions, err = parseConditions(in.Condition, knownKey)
	return err
}

// readTrust reads what only statements about who may assume a role have.
func (s *statement) readTrust(in rawStatement) error {
	if len(in.Resource)+len(in.NotResource) > 0 {
		return errors.New("a trust policy has no Resource")
	}
	var err error
	if s.principals, err = parsePrincipals(in.Principal); err != nil {
		return err
	}
	s.conditions, err = parseConditions(in.Condition, knownTrustKey)
	return err
}

func parsePrincipals(raw json.RawMessage) ([]Principal, error) {
	if raw == nil {
		return nil, errors.New("a trust policy needs a Principal")
	}
	if string(raw) == `"*"` {
		return []Principal{{Kind: "AWS", Name: "*"}}, nil
	}
	var kinds map[string]texts
	if err := unmarshal(raw, &kinds); err != nil {
		return nil, fmt.Errorf("the Principal: %w", err)
	}
	var out []Principal
	for kind, names := range kinds {
		if !slices.Contains([]string{"AWS", "Service", "Federated"}, kind) {
			return nil, fmt.Errorf("the kind of principal %q is not one of AWS, Service and Federated", kind)
		}
		for _, name := range names {
			if strings.Contains(name, "*") && name != "*" {
				return nil, fmt.Errorf("the principal %q has a wildcard", name)
			}
			out = append(out, Principal{Kind: kind, Name: name})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the Principal names nobody")
	}
	return out, nil
}
