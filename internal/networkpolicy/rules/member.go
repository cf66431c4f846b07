package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Member is an element of a set: an address, a range of them, or an address with
// a port. Addresses are IPv4's: a cell has no others. It is written
// 10.0.0.1, 10.0.0.0-10.0.0.255, 10.0.0.1:80.
type Member struct {
	// First and Last are the same unless it is a range.
	First, Last netip.Addr
	// Port is 0 unless it is an endpoint.
	Port uint16
}

// Address is the member that is one address.
func Address(a netip.Addr) Member { return Member{First: a, Last: a} }

// Endpoint is the member that is an address with a port.
func Endpoint(a netip.Addr, port uint16) Member { return Member{First: a, Last: a, Port: port} }

func (m Member) compare(other Member) int {
	return cmp.Or(m.First.Compare(other.First), m.Last.Compare(other.Last), cmp.Compare(m.Port, other.Port))
}

func (m Member) String() string {
	switch {
	case m.Port != 0:
		return netip.AddrPortFrom(m.First, m.Port).String()
	case m.First != m.Last:
		return m.First.String() + "-" + m.Last.String()
	default:
		return m.First.String()
	}
}

// MarshalText implements encoding.TextMarshaler.
func (m Member) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Member) UnmarshalText(text []byte) error {
	s := string(text)
	var err error
	if first, last, isRange := strings.Cut(s, "-"); isRange {
		if m.First, err = netip.ParseAddr(first); err == nil {
			m.Last, err = netip.ParseAddr(last)
		}
		m.Port = 0
	} else if strings.Contains(s, ":") {
		var p netip.AddrPort
		p, err = netip.ParseAddrPort(s)
		*m = Endpoint(p.Addr(), p.Port())
	} else {
		var a netip.Addr
		a, err = netip.ParseAddr(s)
		*m = Address(a)
	}
	if err != nil {
		return fmt.Errorf("reading a member of a set: %w", err)
	}
	return nil
}
