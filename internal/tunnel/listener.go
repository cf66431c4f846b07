package tunnel

import (
	"net"
	"sync"
)

// trackingListener knows every connection that it accepted and that is still
// open, so that it can close them all; and it accepts no more than so many.
type trackingListener struct {
	net.Listener
	limit int

	mu     sync.Mutex
	conns  map[*trackedConn]struct{}
	closed bool
}

func newTrackingListener(l net.Listener, limit int) *trackingListener {
	return &trackingListener{Listener: l, limit: limit, conns: map[*trackedConn]struct{}{}}
}

// Accept closes connections above the limit at once: a caller that is told no
// can try again, one that waits in a queue cannot know.
func (l *trackingListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if conn := l.track(raw); conn != nil {
			return conn, nil
		}
		_ = raw.Close()
	}
}

func (l *trackingListener) track(raw net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.conns) >= l.limit {
		return nil
	}
	conn := &trackedConn{Conn: raw, listener: l}
	l.conns[conn] = struct{}{}
	return conn
}

// closeAll closes the listener and every connection. It may be repeated.
func (l *trackingListener) closeAll() {
	l.mu.Lock()
	l.closed = true
	open := make([]net.Conn, 0, len(l.conns))
	for conn := range l.conns {
		open = append(open, conn)
	}
	l.mu.Unlock()
	_ = l.Listener.Close()
	for _, conn := range open {
		_ = conn.Close()
	}
}

type trackedConn struct {
	net.Conn
	listener *trackingListener
}

func (c *trackedConn) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// singleListener accepts one connection, which exists already, and then nothing
// until that is closed.
type singleListener struct {
	conn   net.Conn
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newSingleListener(conn net.Conn) *singleListener {
	l := &singleListener{conn: conn, accept: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.accept <- &singleConn{Conn: conn, listener: l}
	return l
}

func (l *singleListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accept:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *singleListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *singleListener) Addr() net.Addr { return l.conn.LocalAddr() }

type singleConn struct {
	net.Conn
	listener *singleListener
}

func (c *singleConn) Close() error {
	_ = c.listener.Close()
	return c.Conn.Close()
}
