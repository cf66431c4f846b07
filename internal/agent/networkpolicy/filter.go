package networkpolicy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

const (
	tableName    = "kip-network-policy"
	forwardChain = "forward"
	ingressChain = "ingress"
	egressChain  = "egress"

	// maxElements bounds the elements in one message, whose length has 16 bits.
	maxElements = 1000
	// socketBuffer holds a transaction, which is one datagram: some 100,000
	// addresses.
	socketBuffer = 8 << 20
)

// filter enforces by a table of nftables. It speaks netlink itself: the cell
// needs no nft program, and each transaction takes a millisecond.
type filter struct {
	// uplink is the interface to the VPC.
	uplink string
}

func (filter) inForce() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("opening nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("listing nftables' tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), nil
}

// leavesTrace implements enforcer: the table is always there.
func (filter) leavesTrace(rules.State) bool { return true }

func (f filter) apply(before *rules.State, next rules.State) error {
	conn, err := nftables.New(nftables.WithSockOptions(
		func(c *netlink.Conn) error { return c.SetWriteBuffer(socketBuffer) },
		func(c *netlink.Conn) error { return c.SetReadBuffer(socketBuffer) },
	))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	tx := transaction{
		conn:  conn,
		table: &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName},
		sets:  map[string]*nftables.Set{},
	}
	if before == nil {
		tx.begin(f.uplink)
		before = &rules.State{}
		err = tx.change(*before, next, true)
	} else {
		err = tx.change(*before, next, !reflect.DeepEqual(before.Rules, next.Rules))
	}
	if err != nil {
		return fmt.Errorf("preparing a change of nftables: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("changing nftables: %w", err)
	}
	return nil
}

// transaction is put together first, and then put in force in one step.
type transaction struct {
	conn  *nftables.Conn
	table *nftables.Table
	// sets are those that rules may name.
	sets map[string]*nftables.Set
}

// begin makes the table anew, with the chain that packets come to.
func (tx transaction) begin(uplink string) {
	tx.conn.AddTable(tx.table) // so that it can be deleted
	tx.conn.DelTable(tx.table)
	tx.conn.AddTable(tx.table)
	forward := tx.conn.AddChain(&nftables.Chain{
		Table: tx.table, Name: forwardChain, Type: nftables.ChainTypeFilter,
		// After the translation of Services' addresses: what is judged is where
		// a connection really leads.
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	for _, name := range []string{ingressChain, egressChain} {
		tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: name})
	}
	for _, rule := range []match{
		// Answers belong to what was allowed. The packets of who opened the
		// connection are judged one by one, so that a rule that goes ends the
		// connections that it had allowed.
		match{}.reply().accept(),
		// Errors that concern a connection.
		match{}.related().accept(),
		// The pod with itself, by way of a Service.
		match{}.not(expr.MetaKeyIIFNAME, uplink).not(expr.MetaKeyOIFNAME, uplink).accept(),
		match{}.not(expr.MetaKeyOIFNAME, uplink).jump(ingressChain),
		match{}.not(expr.MetaKeyIIFNAME, uplink).jump(egressChain),
	} {
		tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: forward, Exprs: rule})
	}
}

// change makes next out of before. Nothing may refer to what is not there yet,
// nor to what is there no longer.
func (tx transaction) change(before, next rules.State, newRules bool) error {
	for _, name := range slices.Sorted(maps.Keys(next.Sets)) {
		set := tx.declare(name, next.Sets[name].Kind)
		old, there := before.Sets[name]
		if there && old.Kind != next.Sets[name].Kind {
			return fmt.Errorf("set %s has %s, not %s", name, old.Kind, next.Sets[name].Kind)
		}
		if !there {
			if err := tx.conn.AddSet(set, nil); err != nil {
				return fmt.Errorf("adding set %s: %w", name, err)
			}
		}
		if err := tx.fill(set, old, next.Sets[name]); err != nil {
			return fmt.Errorf("changing set %s: %w", name, err)
		}
	}
	if !newRules {
		return nil
	}
	tx.rewrite(ingressChain, source, next.Rules.Ingress)
	tx.rewrite(egressChain, destination, next.Rules.Egress)
	for _, name := range slices.Sorted(maps.Keys(before.Sets)) {
		if _, stays := next.Sets[name]; !stays {
			tx.conn.DelSet(tx.declare(name, before.Sets[name].Kind))
		}
	}
	return nil
}

// rewrite replaces the rules of one direction.
func (tx transaction) rewrite(name string, peer address, d rules.Direction) {
	chain := &nftables.Chain{Table: tx.table, Name: name}
	tx.conn.FlushChain(chain)
	if !d.Isolated {
		return
	}
	for _, allow := range d.Allow {
		set := tx.sets[allow.Peers]
		ports := allow.Ports
		if len(ports) == 0 {
			tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: chain, Exprs: match{}.in(set, peer).accept()})
		}
		for _, port := range ports {
			m := match{}.protocol(port.Protocol)
			if set != nil && set.Concatenation {
				m = m.inEndpoints(set, peer)
			} else {
				m = m.ports(port).in(set, peer)
			}
			tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: chain, Exprs: m.accept()})
		}
	}
	tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: chain, Exprs: match{}.drop()})
}

// declare says what a set is like.
func (tx transaction) declare(name string, kind rules.Kind) *nftables.Set {
	set := &nftables.Set{Table: tx.table, Name: name, KeyType: nftables.TypeIPAddr}
	switch kind {
	case rules.Ranges:
		set.Interval = true
	case rules.Endpoints:
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
		set.Concatenation = true
	case rules.Addresses:
	}
	tx.sets[name] = set
	return set
}

// fill removes and adds what of a set's members has changed.
func (tx transaction) fill(set *nftables.Set, before, after rules.Set) error {
	for _, step := range []struct {
		has, lacks rules.Set
		do         func(*nftables.Set, []nftables.SetElement) error
	}{
		{before, after, tx.conn.SetDeleteElements},
		{after, before, tx.conn.SetAddElements},
	} {
		var elements []nftables.SetElement
		for m := range step.has.Members {
			if _, both := step.lacks.Members[m]; !both {
				elements = append(elements, elementsOf(step.has.Kind, m)...)
			}
		}
		for chunk := range slices.Chunk(elements, maxElements) {
			if err := step.do(set, chunk); err != nil {
				return err
			}
		}
	}
	return nil
}

// elementsOf are the kernel's elements for a member.
func elementsOf(kind rules.Kind, m rules.Member) []nftables.SetElement {
	first := m.First.As4()
	switch kind {
	case rules.Ranges:
		elements := []nftables.SetElement{{Key: first[:]}}
		// The end is the first address that is not in it. There is none after
		// the last of all.
		if end := m.Last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
		return elements
	case rules.Endpoints:
		// Each part takes whole words of 32 bits.
		return []nftables.SetElement{{Key: append(first[:], byte(m.Port>>8), byte(m.Port), 0, 0)}}
	default:
		return []nftables.SetElement{{Key: first[:]}}
	}
}
