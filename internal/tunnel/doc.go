// Package tunnel connects Kip and the agents in its cells. Kip dials, always;
// a cell never does, so it needs no path to Kip.
//
// One port, TLS 1.3 with certificates on both sides, and the ALPN protocol says
// what a connection is for:
//
//	kip-enrol/1    before the agent has a certificate of Kip's authority: one
//	               exchange in which it gets one (package enrolment)
//	http/1.1       Kip is the client of the agent's API, behind which is the
//	               cell's kubelet; upgrades (exec, attach) pass through
//	kip-gateway/1  reversed: Kip dialled, and now serves HTTP/2 to the agent,
//	               which sends the requests of kubelet and kube-proxy
//
// The numbers are versions. Kip speaks those of its own release and the two
// before (docs/upgrades.md).
//
// Kip's side is Dialer, the agent's side Server.
//
// The agent lets in only a client whose certificate is signed by Kip's
// authority, for use as a client, with the common name "kip". Kip accepts, but
// while enrolling, only a server whose certificate is signed by its authority,
// for use as a server, under the cell's name.
package tunnel

import (
	"errors"
	"time"
)

// Port is the port agents listen on.
const Port = 6421

// The protocols on that port.
const (
	protocolEnrol   = "kip-enrol/1"
	protocolAPI     = "http/1.1"
	protocolGateway = "kip-gateway/1"
)

const (
	// handshakeTimeout bounds a TLS handshake, on both sides.
	handshakeTimeout = 5 * time.Second

	// exchangeTimeout bounds the whole of one enrolment or renewal.
	exchangeTimeout = 30 * time.Second

	// A silent peer is pinged after pingAfter and given up pingTimeout later,
	// so a dead one is noticed within 15 s. Both sides do it; a ping of one
	// spares the other's.
	pingAfter   = 8 * time.Second
	pingTimeout = 7 * time.Second

	// stallTimeout is how long a peer may take nothing that was sent to it.
	stallTimeout = 15 * time.Second

	// maxStreams is how many requests of one cell may be open at a time. Each
	// watch holds one for minutes: a kubelet has one for every ConfigMap and
	// Secret of its pod beside half a dozen of its own.
	maxStreams = 1000

	// maxFrameBytes bounds the buffer that each gateway connection keeps for
	// reading.
	maxFrameBytes = 64 << 10

	// headerTableBytes is what a gateway connection may remember of the headers
	// that Kip sent: thousands of connections have little to save by it.
	headerTableBytes = 512
)

// Errors of Kip's side. Errors of this package wrap at most one of them.
var (
	// ErrUnreachable: nothing accepts connections at the address.
	ErrUnreachable = errors.New("the cell does not accept connections")

	// ErrNotEnrolled: the agent has no certificate yet. Enrol.
	ErrNotEnrolled = errors.New("the agent is not enrolled yet")

	// ErrAlreadyEnrolled: the agent has its certificate and takes part in no
	// second enrolment.
	ErrAlreadyEnrolled = errors.New("the agent says it is enrolled already")

	// ErrExpired: the server holds the cell's certificate, and it expired.
	// Renew.
	ErrExpired = errors.New("the cell's certificate expired")

	// ErrIncompatible: the agent speaks no protocol that Kip speaks. One of them
	// is of a release that is too old for the other.
	ErrIncompatible = errors.New("the agent and this Kip are of releases too far apart, and have no protocol in common")

	// ErrKeepsAuthorities: the agent took the certificate, and is of a release
	// that goes on knowing Kip by what user data has.
	ErrKeepsAuthorities = errors.New("the agent cannot be told of another authority")

	// ErrUntrusted: the server did not show that it is the cell.
	ErrUntrusted = errors.New("the server's certificate is not the cell's")

	// ErrLost: the connection worked and ended.
	ErrLost = errors.New("the connection to the cell was lost")
)

// ErrGatewayLost is the agent's side: the connection to Kip's gateway ended
// while a request was under way. It is not known whether Kip acted on it; the
// client may send it again if it may be repeated.
var ErrGatewayLost = errors.New("the connection to the gateway was lost")
