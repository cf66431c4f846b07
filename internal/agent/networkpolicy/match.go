package networkpolicy

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// match is a rule that is being put together: conditions, of which all must
// hold, and what is to be done at the end.
type match []expr.Any

// The registers that conditions use: one of 128 bits, and two of 32 beside each
// other.
const (
	register       = unix.NFT_REG_1
	registerFirst  = unix.NFT_REG32_00
	registerSecond = unix.NFT_REG32_01
)

// address is which of a packet's addresses is the peer's, as an offset in the
// IPv4 header.
type address uint32

const (
	source      address = 12
	destination address = 16
)

// destinationPort is where TCP, UDP and SCTP have it in their headers.
const destinationPort = 2

// interfaceNameSize is IFNAMSIZ.
const interfaceNameSize = 16

var protocols = map[rules.Protocol]byte{rules.TCP: unix.IPPROTO_TCP, rules.UDP: unix.IPPROTO_UDP, rules.SCTP: unix.IPPROTO_SCTP}

func (m match) with(e ...expr.Any) match { return append(slices.Clone(m), e...) }

func (m match) equal(data ...byte) match {
	return m.with(&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data})
}

// not matches packets whose interface, which key chooses, is another.
func (m match) not(key expr.MetaKey, name string) match {
	data := make([]byte, interfaceNameSize)
	copy(data, name)
	return m.with(
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: data},
	)
}

func (m match) state(bits uint32) match {
	return m.with(
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	)
}

// reply matches packets of an established connection that come from who did not
// open it.
func (m match) reply() match {
	const direction = 1 // IP_CT_DIR_REPLY
	return m.with(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register}).equal(direction).state(expr.CtStateBitESTABLISHED)
}

func (m match) related() match { return m.state(expr.CtStateBitRELATED) }

func (m match) protocol(p rules.Protocol) match {
	return m.with(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}).equal(protocols[p])
}

// ports matches packets, known to be of the port's protocol, by destination.
func (m match) ports(p rules.Port) match {
	if p.First == 0 && p.Last == 1<<16-1 {
		return m
	}
	m = m.with(&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: 2, DestRegister: register})
	first, last := binary.BigEndian.AppendUint16(nil, p.First), binary.BigEndian.AppendUint16(nil, p.Last)
	if p.First == p.Last {
		return m.equal(first...)
	}
	return m.with(
		&expr.Cmp{Op: expr.CmpOpGte, Register: register, Data: first},
		&expr.Cmp{Op: expr.CmpOpLte, Register: register, Data: last},
	)
}

// in matches packets of peers in the set; nil has everybody.
func (m match) in(set *nftables.Set, peer address) match {
	if set == nil {
		return m
	}
	return m.ipv4().with(
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: uint32(peer), Len: 4, DestRegister: register},
		&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID},
	)
}

// inEndpoints matches packets by peer and destination port at once.
func (m match) inEndpoints(set *nftables.Set, peer address) match {
	return m.ipv4().with(
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: uint32(peer), Len: 4, DestRegister: registerFirst},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: 2, DestRegister: registerSecond},
		&expr.Lookup{SourceRegister: registerFirst, SetName: set.Name, SetID: set.ID},
	)
}

func (m match) ipv4() match {
	return m.with(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}).equal(unix.NFPROTO_IPV4)
}

func (m match) accept() match { return m.with(&expr.Verdict{Kind: expr.VerdictAccept}) }

func (m match) jump(chain string) match {
	return m.with(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

// drop counts what it drops, for whoever looks.
func (m match) drop() match {
	return m.with(&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}
