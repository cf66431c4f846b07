package networkpolicy

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// maxChanges is how many changes a set remembers. A cell that is further behind
// is told the whole set.
const maxChanges = 1024

// set is who belongs to peers now. Its version counts its changes. One that
// nobody needs is forgotten; made again it is another, with another id.
type set struct {
	id    uint64
	peers peers

	// members are counted: for a moment two pods can have one address.
	members map[rules.Member]int
	of      map[podKey][]rules.Member
	users   map[*target]struct{}

	version uint64
	// changes are the last ones, of which the newest is version.
	changes []change
}

type change struct {
	member rules.Member
	added  bool
}

func newSet(id uint64, p peers) *set {
	s := &set{id: id, peers: p, members: map[rules.Member]int{}, of: map[podKey][]rules.Member{}, users: map[*target]struct{}{}}
	if p.kind == rules.Ranges {
		for _, m := range p.ranges {
			s.members[m] = 1
		}
	}
	return s
}

// put is called when a pod is new or changed, and says whether the set changed.
func (s *set) put(pod *pod, inNamespace labels.Set, known bool) bool {
	return s.replace(pod.key, s.peers.members(pod, inNamespace, known))
}

// remove is called when a pod is gone.
func (s *set) remove(key podKey) bool { return s.replace(key, nil) }

func (s *set) replace(key podKey, next []rules.Member) bool {
	before := s.of[key]
	if slices.Equal(before, next) {
		return false
	}
	version := s.version
	for _, m := range next {
		if s.members[m]++; s.members[m] == 1 {
			s.record(change{m, true})
		}
	}
	for _, m := range before {
		if s.members[m]--; s.members[m] == 0 {
			delete(s.members, m)
			s.record(change{m, false})
		}
	}
	if s.of[key] = next; len(next) == 0 {
		delete(s.of, key)
	}
	return s.version != version
}

func (s *set) record(c change) {
	s.version++
	s.changes = append(s.changes, c)
	if len(s.changes) >= 2*maxChanges {
		s.changes = slices.Clone(s.changes[len(s.changes)-maxChanges:])
	}
}

// whole is all of the set, for a cell that does not have it.
func (s *set) whole() rules.Change {
	return rules.Change{Kind: s.peers.kind, Whole: true, Add: slices.Collect(maps.Keys(s.members))}
}

// since is what changed after the version, or the whole set if that is less.
func (s *set) since(version uint64) rules.Change {
	n := s.version - version
	if n > uint64(len(s.changes)) || n > uint64(len(s.members)) {
		return s.whole()
	}
	last := map[rules.Member]bool{}
	for _, c := range s.changes[uint64(len(s.changes))-n:] {
		last[c.member] = c.added
	}
	c := rules.Change{Kind: s.peers.kind}
	for m, added := range last {
		if added {
			c.Add = append(c.Add, m)
		} else {
			c.Remove = append(c.Remove, m)
		}
	}
	return c
}
