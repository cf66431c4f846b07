package rules

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
)

// Path is where the agent's API takes an Update, by PUT. An update that is not
// from the revision that the agent has is answered with 409, and the whole state
// is to be sent.
const Path = "/kip/v1/network-policy"

// Rules say what is allowed, by who opens the connection. Answers are allowed
// with it.
type Rules struct {
	// Ingress is about connections to the pod, Egress about those of the pod.
	Ingress Direction `json:"ingress"`
	Egress  Direction `json:"egress"`
}

// Direction is what is allowed in one direction. The zero value allows all.
type Direction struct {
	// Isolated means that only what Allow names is allowed.
	Isolated bool    `json:"isolated,omitempty"`
	Allow    []Allow `json:"allow,omitempty"`
}

// Allow allows connections with some peers on some ports, or all of them.
type Allow struct {
	// Peers names the set that has the peers; empty is everybody. In a set of
	// endpoints are ports too: then Ports has one entry, whose protocol alone
	// counts.
	Peers string `json:"peers,omitempty"`
	// Ports are the destination's; none is every port of every protocol.
	Ports []Port `json:"ports,omitempty"`
}

// Protocol is one that has ports.
type Protocol string

// The protocols, as Kubernetes names them.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Port is a range of ports, both ends included.
type Port struct {
	Protocol Protocol `json:"protocol"`
	First    uint16   `json:"first"`
	Last     uint16   `json:"last"`
}

// Kind is what the members of a set are.
type Kind string

// The kinds of sets.
const (
	// Addresses are single ones, of pods: many, and they change all the time.
	Addresses Kind = "addresses"
	// Ranges are in order, and neither overlap nor touch each other.
	Ranges Kind = "ranges"
	// Endpoints are addresses with a port each.
	Endpoints Kind = "endpoints"
)

// Set is a set of peers.
type Set struct {
	Kind    Kind
	Members map[Member]struct{}
}

// State is all that an agent enforces.
type State struct {
	// Revision names the state; only for equality.
	Revision string
	Rules    Rules
	Sets     map[string]Set
}

// Closed is the state before anything is known: nothing is allowed.
func Closed() State {
	return State{Rules: Rules{Ingress: Direction{Isolated: true}, Egress: Direction{Isolated: true}}}
}

// Update makes one state out of another.
type Update struct {
	// From is the revision of the state that it changes; empty if it is the
	// whole state.
	From     string `json:"from,omitempty"`
	Revision string `json:"revision"`
	// Rules are all rules, nil if they stay as they are.
	Rules *Rules `json:"rules,omitempty"`
	// Sets are those that change. A set that no rule names goes by itself.
	Sets map[string]Change `json:"sets,omitempty"`
}

// Change is what becomes of one set.
type Change struct {
	Kind Kind `json:"kind"`
	// Whole means that what the set had before goes.
	Whole  bool     `json:"whole,omitempty"`
	Add    []Member `json:"add,omitempty"`
	Remove []Member `json:"remove,omitempty"`
}

// ErrRevision says that an update is not from the revision that there is.
var ErrRevision = errors.New("the update is from another revision")

// setName is what names of sets are made of; they are the kernel's too.
var setName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// Apply returns the state that the update makes of this one, which stays as it
// is. An error that is not ErrRevision means that the update makes no sense.
func (s State) Apply(u Update) (State, error) {
	if u.From != "" && u.From != s.Revision {
		return State{}, fmt.Errorf("%w: from %q, and this is %q", ErrRevision, u.From, s.Revision)
	}
	if u.Revision == "" {
		return State{}, errors.New("the update has no revision")
	}
	next := State{Revision: u.Revision, Sets: map[string]Set{}}
	before := map[string]Set{}
	if u.From != "" {
		next.Rules, before = s.Rules, s.Sets
	} else if u.Rules == nil {
		return State{}, errors.New("a whole state has rules")
	}
	if u.Rules != nil {
		next.Rules = *u.Rules
	}
	for _, d := range []Direction{next.Rules.Ingress, next.Rules.Egress} {
		for _, a := range d.Allow {
			if a.Peers == "" {
				continue
			}
			if _, done := next.Sets[a.Peers]; done {
				continue
			}
			set, ok := before[a.Peers]
			if change, changes := u.Sets[a.Peers]; changes {
				var err error
				if set, err = set.apply(change); err != nil {
					return State{}, fmt.Errorf("set %s: %w", a.Peers, err)
				}
			} else if !ok {
				return State{}, fmt.Errorf("there is no set %s", a.Peers)
			}
			next.Sets[a.Peers] = set
		}
	}
	return next, next.validate()
}

// apply returns the set with the change; s stays as it is.
func (s Set) apply(c Change) (Set, error) {
	next := Set{Kind: c.Kind, Members: make(map[Member]struct{}, len(s.Members)+len(c.Add))}
	if !c.Whole {
		if s.Kind != c.Kind {
			return Set{}, fmt.Errorf("it has %s, and the change %s", s.Kind, c.Kind)
		}
		maps.Copy(next.Members, s.Members)
	}
	for _, m := range c.Remove {
		delete(next.Members, m)
	}
	for _, m := range c.Add {
		next.Members[m] = struct{}{}
	}
	return next, nil
}

// Whole is the update that makes this state out of any.
func (s State) Whole() Update {
	u := Update{Revision: s.Revision, Rules: &s.Rules, Sets: map[string]Change{}}
	for name, set := range s.Sets {
		u.Sets[name] = Change{Kind: set.Kind, Whole: true, Add: set.Sorted()}
	}
	return u
}

// Sorted are the members in order.
func (s Set) Sorted() []Member { return slices.SortedFunc(maps.Keys(s.Members), Member.compare) }

// validate makes sure that the state can be enforced as it is meant.
func (s State) validate() error {
	for name, set := range s.Sets {
		if !setName.MatchString(name) {
			return fmt.Errorf("%q is no name of a set", name)
		}
		if err := set.validate(); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	for _, d := range []Direction{s.Rules.Ingress, s.Rules.Egress} {
		for _, a := range d.Allow {
			for _, p := range a.Ports {
				if p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP {
					return fmt.Errorf("%q is no protocol", p.Protocol)
				}
				if p.First > p.Last {
					return fmt.Errorf("ports %d to %d are none", p.First, p.Last)
				}
			}
			if s.Sets[a.Peers].Kind == Endpoints && len(a.Ports) != 1 {
				return fmt.Errorf("endpoints %s are of one protocol, not of %d", a.Peers, len(a.Ports))
			}
		}
	}
	return nil
}

func (s Set) validate() error {
	switch s.Kind {
	case Addresses, Endpoints:
		for m := range s.Members {
			if !m.First.Is4() || m.First != m.Last || (m.Port != 0) != (s.Kind == Endpoints) {
				return fmt.Errorf("%s is none of the %s", m, s.Kind)
			}
		}
	case Ranges:
		var last netip.Addr
		for _, m := range s.Sorted() {
			if !m.First.Is4() || !m.Last.Is4() || m.Last.Less(m.First) || m.Port != 0 {
				return fmt.Errorf("%s is no range", m)
			}
			if last.IsValid() && !last.Next().Less(m.First) {
				return fmt.Errorf("range %s is not apart from the one before", m)
			}
			last = m.Last
		}
	default:
		return fmt.Errorf("%q is no kind of set", s.Kind)
	}
	return nil
}
