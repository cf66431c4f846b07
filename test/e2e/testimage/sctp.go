package main

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"strconv"
	"time"
)

// Few kernels have SCTP, and what is tested is the network: so here are packets
// that look like the first one of an association, without one.

const sctpProtocol = "ip4:132"

// sctpInit is an INIT chunk in a packet.
func sctpInit(from, to uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = append(p, make([]byte, 8)...) // tag 0, and the checksum's place
	p = append(p, 1, 0, 0, 20)        // INIT of 20 bytes
	p = append(p, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}

// sctpPorts are a packet's, which may be another's reply to nobody.
func sctpPorts(p []byte) (from, to uint16, ok bool) {
	if len(p) < 12 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:]), true
}

// sctpServers are the ports below which a packet is a question; answers go to
// ports above.
const sctpServers = 30000

// echoSCTP answers questions.
func echoSCTP() error {
	conn, err := net.ListenPacket(sctpProtocol, "0.0.0.0")
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, who, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if from, to, ok := sctpPorts(b[:n]); ok && to < sctpServers {
				_, _ = conn.WriteTo(sctpInit(to, from), who)
			}
		}
	}()
	return nil
}

// trySCTP asks, and waits for the answer.
func trySCTP(address string, timeout time.Duration) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	to, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	server, err := net.ResolveIPAddr("ip4", host)
	if err != nil {
		return err
	}
	conn, err := net.DialIP(sctpProtocol, nil, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	from := uint16(sctpServers + time.Now().UnixNano()%10000)
	if _, err := conn.Write(sctpInit(from, uint16(to))); err != nil {
		return err
	}
	b := make([]byte, 1500)
	for {
		// Unlike Read it leaves out the IP header.
		n, _, err := conn.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, answered, ok := sctpPorts(b[:n]); ok && answered == from {
			return nil
		}
	}
}
