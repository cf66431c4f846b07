package tunnel

import (
	"bufio"
	"context"
	"crypto"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFileStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kip", "identity.pem")
	store := FileStore(path)
	created, err := loadOrCreate(store)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want Identity) {
		t.Helper()
		got, err := store.Load()
		if err != nil {
			t.Fatal(err)
		}
		if !got.Key.Equal(want.Key) || strings.TrimSpace(string(got.CertificatePEM)) != strings.TrimSpace(string(want.CertificatePEM)) {
			t.Errorf("got certificate %q and another key: %t", got.CertificatePEM, !got.Key.Equal(want.Key))
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("mode is %o, want 600", mode)
		}
	}
	check(created)
	w := newWorld(t)
	cert, err := w.authority.SignCell(created.Key.Public(), cellName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	created.CertificatePEM = cert
	if err := store.Save(created); err != nil {
		t.Fatal(err)
	}
	check(created)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want one file", entries, err)
	}
	if err := os.WriteFile(path, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadOrCreate(store); err == nil {
		t.Error("a damaged identity was replaced: Kip would refuse the new key, and nobody would know why")
	}
}

// An agent whose process restarts is the same agent, before and after it
// enrolled.
func TestAgentRestart(t *testing.T) {
	w := newWorld(t)
	store := FileStore(filepath.Join(t.TempDir(), "identity.pem"))
	var keys []string
	sign := func(fail error) SignFunc {
		return func(ctx context.Context, pub crypto.PublicKey, key string) ([]byte, error) {
			keys = append(keys, key)
			if fail != nil {
				return nil, fail
			}
			return w.sign(ctx, pub, key)
		}
	}
	start := func() (*Server, string, func()) {
		s, err := NewServer(w.config(store))
		if err != nil {
			t.Fatal(err)
		}
		addr, stop := serve(t, s)
		return s, addr, stop
	}

	_, addr, stop := start()
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, sign(errors.New("no"))); err == nil {
		t.Fatal("enrolled")
	}
	stop()

	_, addr, stop = start()
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, sign(nil)); err != nil {
		t.Fatal(err)
	}
	stop()
	if diff := cmp.Diff(keys[:1], keys[1:]); diff != "" {
		t.Errorf("the key changed: -before +after\n%s", diff)
	}

	s, addr, stop := start()
	defer stop()
	if !s.isEnrolled() || s.token != nil {
		t.Error("a restarted agent forgot that it enrolled")
	}
	wantError(t, "The token stays dead.", w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign), ErrAlreadyEnrolled)
	startGateway(t, w.dialer, addr, says("x")).wait(t)
	resp, err := get(t.Context(), s, "/")
	if got := body(t, resp, err); got != "x" {
		t.Errorf("got %q", got)
	}
}

func TestNewServerRefuses(t *testing.T) {
	w := newWorld(t)
	config := w.config(&memoryStore{})
	config.CACertificates = "nothing"
	if _, err := NewServer(config); err == nil {
		t.Error("an agent that cannot know Kip started")
	}

	store := &memoryStore{}
	id, err := loadOrCreate(store)
	if err != nil {
		t.Fatal(err)
	}
	id.CertificatePEM, err = w.authority.SignCell(id.Key.Public(), "cell-b", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Save(id); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServer(w.config(store)); err == nil || !strings.Contains(err.Error(), "cell-b") {
		t.Errorf("the identity of another cell: %v", err)
	}
}

// Upgrades, which exec and port-forward are, pass both ways, and end with the
// agent's Serve.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	config := w.config(&memoryStore{})
	config.API = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_, _ = io.Copy(conn, buf)
	})
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := serve(t, s)
	defer stop()
	if err := w.dialer.Enrol(t.Context(), addr, cellName, token, w.sign); err != nil {
		t.Fatal(err)
	}
	transport := w.dialer.Transport(addr, cellName)
	defer transport.CloseIdleConnections()
	req, err := newRequest(t.Context(), "/kubelet/exec/ns/pod/container")
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	stream := resp.Body.(io.ReadWriteCloser)
	defer stream.Close()
	_, _ = io.WriteString(stream, "echo\n")
	in := bufio.NewReader(stream)
	if line, err := in.ReadString('\n'); line != "echo\n" {
		t.Errorf("got %q, %v", line, err)
	}
	stop()
	if _, err := in.ReadByte(); err == nil {
		t.Error("the stream outlives the agent")
	}
}

// The listener holds no more than its limit, and takes more when some are gone.
func TestTrackingListener(t *testing.T) {
	noLeak(t)
	l := newTrackingListener(listen(t), 2)
	defer l.closeAll()
	accepted := make(chan net.Conn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		return conn
	}
	dial()
	first := <-accepted
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the third connection: %v, want EOF", err)
	}
	_ = first.Close()
	last := dial()
	<-accepted
	l.closeAll()
	if _, err := last.Read(make([]byte, 1)); err == nil {
		t.Error("closeAll left a connection open")
	}
	<-done
}
