package localapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

// start runs the API server in front of the gateway and returns its URL and a
// client with a certificate of the authority.
func start(t *testing.T, gateway http.RoundTripper, hold time.Duration) (string, *Authority, *http.Client) {
	t.Helper()
	authority, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, listener, authority, Handler(gateway, hold, quiet), quiet); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	return "https://" + listener.Addr().String(), authority, client(t, authority, authority)
}

// client trusts one authority and shows a certificate of another, if any.
func client(t *testing.T, trusts, proves *Authority) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: trusts.Pool(), MinVersion: tls.VersionTLS13}
	if proves != nil {
		certificate, err := proves.Client("kubelet")
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{certificate.TLS}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// kip is a gateway that answers at once, through a real HTTP server.
func kip(t *testing.T, handler http.HandlerFunc) http.RoundTripper {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = target.Scheme, target.Host
		return http.DefaultTransport.RoundTrip(out)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOnlyTheCellsOwnClients(t *testing.T) {
	served := 0
	server, authority, own := start(t, kip(t, func(http.ResponseWriter, *http.Request) { served++ }), time.Second)
	stranger, err := NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*http.Client{
		"no certificate": client(t, authority, nil), "another authority's": client(t, authority, stranger),
	} {
		if resp, err := c.Get(server + "/api"); err == nil {
			resp.Body.Close()
			t.Errorf("a client with %s was let in", name)
		}
	}
	if served != 0 {
		t.Errorf("%d requests of strangers reached Kip", served)
	}
	resp, err := own.Get(server + "/api")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || served != 1 {
		t.Errorf("protocol %s, %d requests reached Kip; want HTTP/2 and 1", resp.Proto, served)
	}
}

func TestServerCertificateIsNoClientCertificate(t *testing.T) {
	server, authority, _ := start(t, kip(t, func(http.ResponseWriter, *http.Request) {}), time.Second)
	certificate, err := authority.Server("kubelet")
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: authority.Pool(), Certificates: []tls.Certificate{certificate.TLS}, MinVersion: tls.VersionTLS13,
	}}}
	if resp, err := c.Get(server + "/api"); err == nil {
		resp.Body.Close()
		t.Error("the kubelet's serving certificate was taken as a client's")
	}
}

func TestStreams(t *testing.T) {
	next := make(chan string)
	server, _, c := start(t, kip(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for event := range next {
			fmt.Fprintln(w, event)
			w.(http.Flusher).Flush()
		}
	}), 50*time.Millisecond)

	go func() { next <- "first" }()
	resp, err := c.Get(server + "/api/v1/pods?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"first", "second", "third"} {
		if want != "first" {
			// Longer than the hold: an answer that has begun is not bounded.
			time.Sleep(60 * time.Millisecond)
			next <- want
		}
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("read %q, %v; want %q at once", lines.Text(), lines.Err(), want)
		}
	}
	close(next)
}

func TestKipIsAway(t *testing.T) {
	away := roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, fmt.Errorf("waiting: %w", context.Cause(r.Context()))
	})
	server, _, c := start(t, away, 50*time.Millisecond)
	resp, err := c.Get(server + "/api/v1/pods")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status struct {
		Kind, Reason, Message string
		Code                  int
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || status.Kind != "Status" || status.Code != 503 || resp.Header.Get("Retry-After") == "" ||
		!strings.Contains(status.Message, "no connection to Kip") {
		t.Errorf("answer %d %+v", resp.StatusCode, status)
	}
}

func TestKipComesBackInTime(t *testing.T) {
	back := time.Now().Add(100 * time.Millisecond)
	direct := kip(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, body)
	})
	server, _, c := start(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		time.Sleep(time.Until(back))
		return direct.RoundTrip(r)
	}), 5*time.Second)
	resp, err := c.Post(server+"/api/v1/events", "application/json", strings.NewReader("an event"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "POST an event" {
		t.Errorf("answer %q", body)
	}
}

func TestConnectionLostIsNoInvitationToRepeat(t *testing.T) {
	server, _, c := start(t, roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("the connection was lost")
	}), time.Second)
	resp, err := c.Get(server + "/api")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "" {
		t.Errorf("answer %d, Retry-After %q; the request may have been acted on", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}

func TestAgentsPathsAreRefused(t *testing.T) {
	server, _, c := start(t, kip(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s reached Kip", r.URL.Path)
	}), time.Second)
	for _, path := range []string{"/kip", "/kip/v1/interruption", "//kip/v1/interruption", "/api/../kip/v1/x", "/%6bip/v1/x"} {
		req, err := http.NewRequest(http.MethodPost, server, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = "//" + req.URL.Host + path // as written, not cleaned
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: status %d, want 403", path, resp.StatusCode)
		}
	}
}

// Kip refuses many a request without reading its body, and then the client
// stops sending it. The answer must come to its end all the same.
func TestRefusalsEnd(t *testing.T) {
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusForbidden)
	}))
	upstream.EnableHTTP2 = true
	upstream.StartTLS()
	t.Cleanup(upstream.Close)
	target, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	server, _, c := start(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = target.Scheme, target.Host
		return upstream.Client().Transport.RoundTrip(out)
	}), time.Second)
	c.Timeout = 5 * time.Second
	for i := range 500 {
		resp, err := c.Post(server+"/api/v1/nodes", "application/json", strings.NewReader(`{"kind":"Node"}`))
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}

func TestBodies(t *testing.T) {
	server, _, c := start(t, kip(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d of %d", len(body), r.ContentLength)
	}), time.Second)
	for name, tc := range map[string]struct {
		reason string
		body   io.Reader
		status int
		want   string
	}{
		"None":     {"A request without a body stays one.", nil, http.StatusOK, "0 of 0"},
		"Known":    {"The usual case.", strings.NewReader("12345"), http.StatusOK, "5 of 5"},
		"Streamed": {"What a client sends piece by piece Kip gets as a whole.", io.MultiReader(strings.NewReader("12345")), http.StatusOK, "5 of 5"},
		"Largest":  {"The limit itself is allowed.", bytes.NewReader(make([]byte, maxBody)), http.StatusOK, fmt.Sprintf("%d of %d", maxBody, maxBody)},
		"TooLarge": {"A cell's memory is the pod's.", bytes.NewReader(make([]byte, maxBody+1)), http.StatusRequestEntityTooLarge, "RequestEntityTooLarge"},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := c.Post(server+"/api", "application/json", tc.body)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(text), tc.want) {
				t.Errorf("%s\ngot %s %s (%v), want %d %s", tc.reason, resp.Status, text, err, tc.status, tc.want)
			}
		})
	}
}
