package networkpolicy

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// blockRanges are the IPv4 addresses of a block without its exceptions, in
// order.
func blockRanges(b *networkingv1.IPBlock) ([]rules.Member, error) {
	block, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("ipBlock: %w", err)
	}
	if !block.Addr().Is4() {
		return nil, nil
	}
	var except []rules.Member
	for _, e := range b.Except {
		prefix, err := netip.ParsePrefix(e)
		if err != nil {
			return nil, fmt.Errorf("ipBlock's except: %w", err)
		}
		if prefix.Addr().Is4() {
			except = append(except, prefixRange(prefix))
		}
	}
	left := prefixRange(block)
	var ranges []rules.Member
	for _, e := range union(except) {
		if e.Last.Less(left.First) || left.Last.Less(e.First) {
			continue
		}
		if left.First.Less(e.First) {
			ranges = append(ranges, rules.Member{First: left.First, Last: e.First.Prev()})
		}
		left.First = e.Last.Next()
		if !left.First.IsValid() || left.Last.Less(left.First) {
			return ranges, nil
		}
	}
	return append(ranges, left), nil
}

// prefixRange is the first and the last address of an IPv4 prefix.
func prefixRange(p netip.Prefix) rules.Member {
	first := p.Masked().Addr()
	last := first.As4()
	for i := range last {
		host := 8*(i+1) - p.Bits() // bits of this byte that the prefix leaves open
		last[i] |= byte(1<<min(max(host, 0), 8) - 1)
	}
	return rules.Member{First: first, Last: netip.AddrFrom4(last)}
}

// union is the same addresses in order, with what overlaps or touches made one.
func union(ranges []rules.Member) []rules.Member {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b rules.Member) int { return a.First.Compare(b.First) })
	var out []rules.Member
	for _, r := range sorted {
		if n := len(out); n > 0 {
			end := &out[n-1]
			if next := end.Last.Next(); !next.IsValid() || !next.Less(r.First) {
				if end.Last.Less(r.Last) {
					end.Last = r.Last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}
