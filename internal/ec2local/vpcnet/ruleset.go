package vpcnet

import (
	"maps"
	"slices"

	"sigs.k8s.io/knftables"
)

// ruleset is what of an nftables table changes: chains that others jump to, sets of addresses, and the elements of maps
// that are there for good.
type ruleset struct {
	chains map[string][]string
	sets   map[string]map[string]bool
	maps   map[string]map[string]string
}

func newRuleset() ruleset {
	return ruleset{chains: map[string][]string{}, sets: map[string]map[string]bool{}, maps: map[string]map[string]string{}}
}

// write adds to a transaction what makes one ruleset out of another. Order matters: nothing may refer to what is not
// there yet, nor to what is there no longer.
func (next ruleset) write(tx *knftables.Transaction, old ruleset) {
	for _, name := range slices.Sorted(maps.Keys(next.sets)) {
		next.writeSet(tx, name, old.sets[name])
	}
	changed := func(name string) bool {
		before, ok := old.chains[name]
		return !ok || !slices.Equal(before, next.chains[name])
	}
	names := slices.Sorted(maps.Keys(next.chains))
	for _, name := range names {
		if changed(name) {
			tx.Add(&knftables.Chain{Name: name})
			tx.Flush(&knftables.Chain{Name: name})
		}
	}
	for _, name := range names {
		if changed(name) {
			for _, rule := range next.chains[name] {
				tx.Add(&knftables.Rule{Chain: name, Rule: rule})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(next.maps)) {
		next.writeMap(tx, name, old.maps[name])
	}
	gone := missing(old.chains, next.chains)
	for _, name := range gone {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range gone {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range missing(old.sets, next.sets) {
		tx.Delete(&knftables.Set{Name: name})
	}
}

// missing are the keys of old that next lacks, in order.
func missing[V any](old, next map[string]V) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(old)) {
		if _, ok := next[key]; !ok {
			out = append(out, key)
		}
	}
	return out
}

func (next ruleset) writeSet(tx *knftables.Transaction, name string, old map[string]bool) {
	if old == nil {
		tx.Add(&knftables.Set{Name: name, Type: "ipv4_addr"})
	}
	for key := range old {
		if !next.sets[name][key] {
			tx.Delete(&knftables.Element{Set: name, Key: []string{key}})
		}
	}
	for key := range next.sets[name] {
		if !old[key] {
			tx.Add(&knftables.Element{Set: name, Key: []string{key}})
		}
	}
}

func (next ruleset) writeMap(tx *knftables.Transaction, name string, old map[string]string) {
	for key, value := range old {
		if next.maps[name][key] != value {
			tx.Delete(&knftables.Element{Map: name, Key: []string{key}})
		}
	}
	for key, value := range next.maps[name] {
		if old[key] != value {
			tx.Add(&knftables.Element{Map: name, Key: []string{key}, Value: []string{value}})
		}
	}
}
