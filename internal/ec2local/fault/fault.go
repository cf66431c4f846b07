// Package fault is the script of what shall go wrong in ec2local: a list of rules that is asked before each launch and
// that can be changed at any time.
package fault

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
)

// Rule makes launches fail. Empty fields match everything. Its JSON form is what the administration API takes.
type Rule struct {
	// Name tells rules apart for people; it has no meaning here.
	Name string `json:"name,omitempty"`
	// InstanceType and Zone are patterns with * and ?, such as "t3.*" and "us-west-2a".
	InstanceType string `json:"instanceType,omitempty"`
	Zone         string `json:"zone,omitempty"`
	// CapacityType is "spot" or "on-demand".
	CapacityType string `json:"capacityType,omitempty"`
	// Code is the EC2 error code to answer with, by default InsufficientInstanceCapacity.
	Code string `json:"code,omitempty"`
	// Message is what to say with it; there is a default.
	Message string `json:"message,omitempty"`
	// Count is how many launches the rule makes fail before it is used up; 0 means it never is.
	Count int `json:"count,omitempty"`
}

// Launch is a wish to launch an instance.
type Launch struct{ InstanceType, Zone, CapacityType string }

// Script is a list of rules, used from many goroutines. Its zero value lets everything pass.
type Script struct {
	mu    sync.Mutex
	rules []Rule
}

// Rules returns the rules that are in force.
func (s *Script) Rules() []Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rules)
}

// Set replaces all rules.
func (s *Script) Set(rules []Rule) error {
	for i := range rules {
		if err := rules[i].check(); err != nil {
			return fmt.Errorf("rule %d: %w", i, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = slices.Clone(rules)
	return nil
}

// Launch returns the first rule that makes the launch fail, with its code filled in, and counts it as used.
func (s *Script) Launch(l Launch) (Rule, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.rules {
		if !s.rules[i].matches(l) {
			continue
		}
		hit := s.rules[i]
		if hit.Code == "" {
			hit.Code = "InsufficientInstanceCapacity"
		}
		switch s.rules[i].Count {
		case 0:
		case 1:
			s.rules = slices.Delete(s.rules, i, i+1)
		default:
			s.rules[i].Count--
		}
		return hit, true
	}
	return Rule{}, false
}

func (r *Rule) matches(l Launch) bool {
	return glob(r.InstanceType, l.InstanceType) && glob(r.Zone, l.Zone) &&
		(r.CapacityType == "" || r.CapacityType == l.CapacityType)
}

func glob(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

func (r *Rule) check() error {
	for _, pattern := range []string{r.InstanceType, r.Zone} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	switch r.CapacityType {
	case "", "spot", "on-demand":
	default:
		return fmt.Errorf("capacityType %q: must be spot or on-demand", r.CapacityType)
	}
	if r.Count < 0 {
		return errors.New("count is negative")
	}
	return nil
}
