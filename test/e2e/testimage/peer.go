package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// peerPorts are where a peer listens, over TCP and UDP; over SCTP it is any
// port. What it is sent, it sends back.
var peerPorts = []string{"8000", "8001", "8002", "9000"}

// peer listens until it is ended. Before that, from its very start, it tries the
// address, if there is one, and prints whether it ever had an answer.
func peer(first []string) error {
	for _, port := range peerPorts {
		listener, err := net.Listen("tcp4", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
		packets, err := net.ListenPacket("udp4", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 1500)
			for {
				if n, from, err := packets.ReadFrom(b); err == nil {
					_, _ = packets.WriteTo(b[:n], from)
				}
			}
		}()
	}
	if err := echoSCTP(); err != nil {
		return err
	}
	for _, address := range first {
		answered := 0
		for range 40 {
			if try("tcp", address, 50*time.Millisecond) == nil {
				answered++
			}
		}
		fmt.Printf("%s answered %d times\n", address, answered)
	}
	select {}
}

// probe reads lines "ID NETWORK ADDRESS:PORT TIMEOUT", tries each connection, all
// at once, and prints "ID RESULT" when it knows: ok, refused, timeout or what
// else became of it.
func probe() error {
	var out sync.Mutex
	var tries sync.WaitGroup
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 4 {
			return fmt.Errorf("line %q has %d fields", lines.Text(), len(f))
		}
		timeout, err := time.ParseDuration(f[3])
		if err != nil {
			return err
		}
		tries.Go(func() {
			result := describe(try(f[1], f[2], timeout))
			out.Lock()
			defer out.Unlock()
			fmt.Println(f[0], result)
		})
	}
	tries.Wait()
	return lines.Err()
}

// question is answered by a peer as by an HTTP server, with TLS or without.
const question = "GET / HTTP/1.0\r\n\r\n"

// try opens a connection and has something sent back. A packet may be lost, and
// only TCP repeats it.
func try(network, address string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if network == "tcp" {
		return tryTCP(ctx, address, timeout)
	}
	var err error
	for ctx.Err() == nil {
		if network == "sctp" {
			err = trySCTP(address, repeatAfter)
		} else {
			err = tryUDP(address, repeatAfter)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// repeatAfter is how long the answer to one packet may take.
const repeatAfter = 300 * time.Millisecond

func tryTCP(ctx context.Context, address string, timeout time.Duration) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return answered(conn, timeout)
}

func tryUDP(address string, timeout time.Duration) error {
	conn, err := net.Dial("udp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return answered(conn, timeout)
}

func answered(conn net.Conn, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, question); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

// describe is what became of a try, in a word if possible.
func describe(err error) string {
	var timed net.Error
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timed) && timed.Timeout():
		return "timeout"
	default:
		return strings.ReplaceAll(err.Error(), "\n", " ")
	}
}
