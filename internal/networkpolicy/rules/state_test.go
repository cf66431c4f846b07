package rules

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareAddresses = cmpopts.EquateComparable(netip.Addr{})

func members(text ...string) (out []Member) {
	for _, t := range text {
		var m Member
		if err := m.UnmarshalText([]byte(t)); err != nil {
			panic(err)
		}
		out = append(out, m)
	}
	return out
}

func isolated(allow ...Allow) *Rules { return &Rules{Ingress: Direction{Isolated: true, Allow: allow}} }

func TestApply(t *testing.T) {
	before, err := State{}.Apply(Update{Revision: "1", Rules: isolated(Allow{Peers: "a"}), Sets: map[string]Change{
		"a": {Kind: Addresses, Whole: true, Add: members("10.0.0.1", "10.0.0.2")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		update Update
		want   []string // of set a
		err    bool
	}{
		"Change": {
			reason: "what is not named stays", want: []string{"10.0.0.2", "10.0.0.3"},
			update: Update{From: "1", Revision: "2", Sets: map[string]Change{"a": {Kind: Addresses, Add: members("10.0.0.3"), Remove: members("10.0.0.1")}}},
		},
		"Whole": {
			reason: "a set can be replaced alone", want: []string{"10.0.0.9"},
			update: Update{From: "1", Revision: "2", Sets: map[string]Change{"a": {Kind: Addresses, Whole: true, Add: members("10.0.0.9")}}},
		},
		"Nothing": {
			reason: "Kip asks so whether the agent has what it was told", want: []string{"10.0.0.1", "10.0.0.2"},
			update: Update{From: "1", Revision: "2"},
		},
		"Twice": {
			reason: "adding what is there and removing what is not change nothing", want: []string{"10.0.0.1", "10.0.0.2"},
			update: Update{From: "1", Revision: "2", Sets: map[string]Change{"a": {Kind: Addresses, Add: members("10.0.0.1"), Remove: members("10.0.0.7")}}},
		},
		"OtherRevision":    {reason: "it would be another state", err: true, update: Update{From: "0", Revision: "2"}},
		"NoRevision":       {reason: "nobody could build on it", err: true, update: Update{From: "1"}},
		"WholeWithoutRule": {reason: "no rules at all would be open", err: true, update: Update{Revision: "2"}},
		"UnknownSet":       {reason: "rules must not name what is not there", err: true, update: Update{From: "1", Revision: "2", Rules: isolated(Allow{Peers: "b"})}},
		"WholeForgets":     {reason: "a whole state has all its sets", err: true, update: Update{Revision: "2", Rules: isolated(Allow{Peers: "a"})}},
		"OtherKind":        {reason: "the kernel's set is of one type", err: true, update: Update{From: "1", Revision: "2", Sets: map[string]Change{"a": {Kind: Ranges}}}},
		"NoKind":           {reason: "it could not be enforced", err: true, update: Update{Revision: "2", Rules: isolated(Allow{Peers: "a"}), Sets: map[string]Change{"a": {Whole: true}}}},
		"RangeAsAddress": {reason: "it would be its first address", err: true, update: Update{From: "1", Revision: "2",
			Sets: map[string]Change{"a": {Kind: Addresses, Add: members("10.0.1.0-10.0.1.9")}}}},
		"IPv6": {reason: "the kernel's sets are IPv4's", err: true, update: Update{From: "1", Revision: "2",
			Sets: map[string]Change{"a": {Kind: Addresses, Add: []Member{Address(netip.MustParseAddr("fd00::1"))}}}}},
		"Overlap": {reason: "the kernel refuses them", err: true, update: Update{Revision: "2", Rules: isolated(Allow{Peers: "a"}),
			Sets: map[string]Change{"a": {Kind: Ranges, Whole: true, Add: members("10.0.0.0-10.0.0.9", "10.0.0.5-10.0.0.20")}}}},
		"Touching": {reason: "the kernel refuses them", err: true, update: Update{Revision: "2", Rules: isolated(Allow{Peers: "a"}),
			Sets: map[string]Change{"a": {Kind: Ranges, Whole: true, Add: members("10.0.0.0-10.0.0.9", "10.0.0.10")}}}},
		"Protocol": {reason: "ICMP has no ports", err: true, update: Update{From: "1", Revision: "2", Rules: isolated(Allow{Ports: []Port{{Protocol: "ICMP"}}})}},
		"Ports":    {reason: "a range that has nothing in it is a mistake", err: true, update: Update{From: "1", Revision: "2", Rules: isolated(Allow{Ports: []Port{{TCP, 9, 8}}})}},
		"Name": {reason: "it becomes a name in the kernel", err: true, update: Update{Revision: "2", Rules: isolated(Allow{Peers: "a b"}),
			Sets: map[string]Change{"a b": {Kind: Addresses, Whole: true}}}},
		"EndpointsOfAll": {reason: "endpoints are of one protocol", err: true, update: Update{Revision: "2", Rules: isolated(Allow{Peers: "a"}),
			Sets: map[string]Change{"a": {Kind: Endpoints, Whole: true, Add: members("10.0.0.1:80")}}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := before.Apply(tc.update)
			if (err != nil) != tc.err {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			if errors.Is(err, ErrRevision) != (name == "OtherRevision") {
				t.Errorf("%s: %v", tc.reason, err)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(members(tc.want...), got.Sets["a"].Sorted(), compareAddresses); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(members("10.0.0.1", "10.0.0.2"), before.Sets["a"].Sorted(), compareAddresses); diff != "" {
				t.Errorf("the state before is changed (-want +got)\n%s", diff)
			}
		})
	}
}

// A state survives the wire, and the disk.
func TestWholeOverJSON(t *testing.T) {
	want, err := State{}.Apply(Update{Revision: "7",
		Rules: &Rules{
			Ingress: Direction{Isolated: true, Allow: []Allow{{Peers: "a", Ports: []Port{{TCP, 80, 90}}}, {Ports: []Port{{SCTP, 0, 65535}}}}},
			Egress:  Direction{Isolated: true, Allow: []Allow{{Peers: "r"}, {Peers: "e", Ports: []Port{{UDP, 0, 65535}}}}},
		},
		Sets: map[string]Change{
			"a": {Kind: Addresses, Whole: true, Add: members("10.0.0.1")},
			"r": {Kind: Ranges, Whole: true, Add: members("0.0.0.0-9.255.255.255", "192.0.2.1")},
			"e": {Kind: Endpoints, Whole: true, Add: members("10.0.0.1:53", "10.0.0.1:65535")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(want.Whole())
	if err != nil {
		t.Fatal(err)
	}
	var u Update
	if err := json.Unmarshal(raw, &u); err != nil {
		t.Fatal(err)
	}
	got, err := State{}.Apply(u)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareAddresses); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzMember(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "10.0.0.1-10.0.0.9", "10.0.0.1:80", "fd00::1", "", "-", ":", "1.2.3.4:99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var m, again Member
		if m.UnmarshalText([]byte(s)) != nil || !m.First.Is4() || !m.Last.Is4() {
			return // only IPv4 is written
		}
		if err := again.UnmarshalText([]byte(m.String())); err != nil || again != m {
			t.Errorf("%q is read as %v, written as %q, and that read as %v, %v", s, m, m.String(), again, err)
		}
	})
}
