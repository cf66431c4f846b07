// Package fault is the script of what shall go wrong in ec2local: a list of rules that is asked before each request and
// that can be changed at any time.
package fault

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"time"
)

// RunInstances is the action of rules that name none.
const RunInstances = "RunInstances"

// Rule makes requests fail, slow, or go unanswered. Fields that are empty match everything, but for Action. Its JSON
// form is what the administration API takes.
type Rule struct {
	// Name tells rules apart for people; it has no meaning here.
	Name string `json:"name,omitempty"`

	// Action is a pattern of actions with * and ?, such as "Describe*"; by default RunInstances.
	Action string `json:"action,omitempty"`
	// InstanceType and Zone are patterns such as "t3.*" and "us-west-2a", and CapacityType is "spot" or "on-demand".
	// A rule that has one of them matches launches only.
	InstanceType string `json:"instanceType,omitempty"`
	Zone         string `json:"zone,omitempty"`
	CapacityType string `json:"capacityType,omitempty"`

	// Count is how many requests the rule concerns before it is used up; 0 means it never is.
	Count int `json:"count,omitempty"`
	// Rate is the share of requests that the rule concerns, of those that it matches; 0 means all. Seed makes the
	// choice: the same requests in the same order fare the same.
	Rate float64 `json:"rate,omitempty"`
	Seed uint64  `json:"seed,omitempty"`

	// Delay is how long the request is held before anything else happens.
	Delay Duration `json:"delay,omitempty"`
	// Lose makes the connection end without an answer: "before" the request has its effect, or "after".
	Lose string `json:"lose,omitempty"`
	// Code is the EC2 error code to answer with. A rule that says nothing else fails launches with
	// InsufficientInstanceCapacity and other requests with InternalError.
	Code string `json:"code,omitempty"`
	// Message is what to say with it; there is a default.
	Message string `json:"message,omitempty"`
}

// What Rule.Lose may be.
const (
	LoseBefore = "before"
	LoseAfter  = "after"
)

// Call is a request. All but its action are of launches.
type Call struct{ Action, InstanceType, Zone, CapacityType string }

// Script is a list of rules, used from many goroutines. Its zero value lets everything pass.
type Script struct {
	mu    sync.Mutex
	rules []rule
}

// rule is a Rule in force.
type rule struct {
	Rule
	dice *rand.Rand
}

// Rules returns the rules that are in force.
func (s *Script) Rules() []Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Rule
	for _, r := range s.rules {
		out = append(out, r.Rule)
	}
	return out
}

// Set replaces all rules.
func (s *Script) Set(rules []Rule) error {
	var next []rule
	for i, r := range rules {
		if err := r.check(); err != nil {
			return fmt.Errorf("rule %d: %w", i, err)
		}
		next = append(next, rule{r, rand.New(rand.NewPCG(r.Seed, 0))}) //nolint:gosec // a script must be able to repeat itself
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = next
	return nil
}

// Next returns the first rule that concerns the request, with its code filled in, and counts it as used.
func (s *Script) Next(c Call) (Rule, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.rules {
		r := &s.rules[i]
		if !r.matches(c) || r.Rate > 0 && r.dice.Float64() >= r.Rate {
			continue
		}
		hit := r.Rule
		switch {
		case hit.Code != "" || hit.Delay != 0 || hit.Lose != "":
		case c.Action == RunInstances:
			hit.Code = "InsufficientInstanceCapacity"
		default:
			hit.Code = "InternalError"
		}
		switch r.Count {
		case 0:
		case 1:
			s.rules = slices.Delete(s.rules, i, i+1)
		default:
			r.Count--
		}
		return hit, true
	}
	return Rule{}, false
}

func (r *Rule) matches(c Call) bool {
	if r.ofLaunches() && c.Action != RunInstances {
		return false
	}
	return glob(cmp.Or(r.Action, RunInstances), c.Action) && glob(r.InstanceType, c.InstanceType) && glob(r.Zone, c.Zone) &&
		(r.CapacityType == "" || r.CapacityType == c.CapacityType)
}

func (r *Rule) ofLaunches() bool { return r.InstanceType != "" || r.Zone != "" || r.CapacityType != "" }

func glob(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

func (r *Rule) check() error {
	for _, pattern := range []string{r.Action, r.InstanceType, r.Zone} {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	switch r.CapacityType {
	case "", "spot", "on-demand":
	default:
		return fmt.Errorf("capacityType %q: must be spot or on-demand", r.CapacityType)
	}
	switch r.Lose {
	case "", LoseBefore, LoseAfter:
	default:
		return fmt.Errorf("lose %q: must be before or after", r.Lose)
	}
	switch {
	case r.ofLaunches() && !glob(cmp.Or(r.Action, RunInstances), RunInstances):
		return errors.New("instanceType, zone and capacityType are of launches, and action is not")
	case r.Lose != "" && r.Code != "":
		return errors.New("an answer that is lost has no code")
	case r.Count < 0:
		return errors.New("count is negative")
	case r.Rate < 0 || r.Rate > 1:
		return errors.New("rate must be from 0 to 1")
	case r.Delay < 0:
		return errors.New("delay is negative")
	}
	return nil
}

// Duration is a time.Duration whose JSON form is text such as "1.5s".
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}
