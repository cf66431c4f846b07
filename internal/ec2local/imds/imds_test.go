package imds

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// instances are told by addresses of the loopback network, which all belong to this machine.
func instances() map[string]Instance {
	base := Instance{
		Enabled: true, TokensRequired: true, ResponseHopLimit: 1,
		ID: "i-1", Type: "t3.small", ImageID: "ami-1", AccountID: "123456789012", Architecture: "x86_64",
		Region: "us-west-2", Zone: "us-west-2a", ZoneID: "usw2-az1", HostName: "ip-10-98-0-4.us-west-2.compute.internal",
		LaunchTime: start, UserData: []byte{0x1f, 0x8b, 0}, InterfaceID: "eni-1", SubnetID: "subnet-1", VPCID: "vpc-1",
		MAC:        "02:00:00:00:00:01",
		PrivateIPs: []netip.Addr{netip.MustParseAddr("10.98.0.4"), netip.MustParseAddr("10.98.0.5")},
		SubnetCIDR: netip.MustParsePrefix("10.98.0.0/20"), VPCCIDR: netip.MustParsePrefix("10.98.0.0/16"),
	}
	spot, old, off := base, base, base
	spot.ID, spot.Spot, spot.UserData = "i-2", true, nil
	spot.InterruptionNotice, spot.RebalanceNotice = start.Add(2*time.Minute), start
	spot.Tags = map[string]string{"Name": "n"}
	old.TokensRequired, off.Enabled = false, false
	return map[string]Instance{"127.0.0.2": base, "127.0.0.3": spot, "127.0.0.4": old, "127.0.0.5": off}
}

type service struct {
	url string
	now atomic.Pointer[time.Time]
}

func serve(t *testing.T) *service {
	t.Helper()
	s := &service{}
	s.now.Store(&start)
	known := instances()
	server := New(Config{
		Lookup: func(a netip.Addr) (Instance, bool) { i, ok := known[a.String()]; return i, ok },
		Key:    []byte("key"), Now: func() time.Time { return *s.now.Load() }, Log: slog.New(slog.DiscardHandler),
	})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	s.url = "http://" + l.Addr().String()
	return s
}

// from asks from one of the instances' addresses.
func (s *service) from(t *testing.T, address, method, path string, headers ...string) (status int, body string) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func (s *service) token(t *testing.T, address string) string {
	t.Helper()
	status, token := s.from(t, address, "PUT", "/latest/api/token", headerTTL, "60")
	if status != http.StatusOK {
		t.Fatalf("no token: %d %s", status, token)
	}
	return token
}

func TestToken(t *testing.T) {
	s := serve(t)
	cases := map[string]struct {
		reason  string
		address string
		headers []string
		want    int
	}{
		"good":      {"a token for six hours", "127.0.0.2", []string{headerTTL, "21600"}, 200},
		"no TTL":    {"it must be said", "127.0.0.2", nil, 400},
		"too long":  {"six hours at most", "127.0.0.2", []string{headerTTL, "21601"}, 400},
		"zero":      {"at least a second", "127.0.0.2", []string{headerTTL, "0"}, 400},
		"forwarded": {"went through a proxy", "127.0.0.2", []string{headerTTL, "60", "X-Forwarded-For", "127.0.0.3"}, 403},
		"stranger":  {"no instance has this address", "127.0.0.9", []string{headerTTL, "60"}, 404},
		"disabled":  {"the instance wants none", "127.0.0.5", []string{headerTTL, "60"}, 403},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got, _ := s.from(t, tc.address, "PUT", "/latest/api/token", tc.headers...); got != tc.want {
				t.Errorf("%s: got %d, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

func TestWhoMayRead(t *testing.T) {
	s := serve(t)
	token := s.token(t, "127.0.0.2")
	read := func(address string, headers ...string) int {
		status, _ := s.from(t, address, "GET", "/latest/meta-data/instance-id", headers...)
		return status
	}
	for name, tc := range map[string]struct{ got, want int }{
		"with its token":             {read("127.0.0.2", headerToken, token), 200},
		"without a token":            {read("127.0.0.2"), 401},
		"with another's token":       {read("127.0.0.3", headerToken, token), 401},
		"with a made-up token":       {read("127.0.0.2", headerToken, "AAAA"), 401},
		"version 1":                  {read("127.0.0.4"), 200},
		"version 1 with a bad token": {read("127.0.0.4", headerToken, "AAAA"), 401},
		"disabled":                   {read("127.0.0.5", headerToken, token), 403},
		"a header names another":     {read("127.0.0.9", headerToken, token, "X-Forwarded-For", "127.0.0.2"), 404},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %d, want %d", name, tc.got, tc.want)
		}
	}
	later := start.Add(61 * time.Second)
	s.now.Store(&later)
	if got := read("127.0.0.2", headerToken, token); got != http.StatusUnauthorized {
		t.Errorf("with an expired token: %d", got)
	}
}

func TestMetadata(t *testing.T) {
	s := serve(t)
	const nic = "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/"
	cases := map[string]struct {
		address, path string
		want          string // 404 for not found
	}{
		"id":              {"127.0.0.2", "/latest/meta-data/instance-id", "i-1"},
		"version":         {"127.0.0.2", "/2021-03-23/meta-data/instance-id", "i-1"},
		"unknown version": {"127.0.0.2", "/1999-01-01/meta-data/instance-id", "404"},
		"user data":       {"127.0.0.2", "/latest/user-data", "\x1f\x8b\x00"},
		"no user data":    {"127.0.0.3", "/latest/user-data", "404"},
		"addresses":       {"127.0.0.2", nic + "local-ipv4s", "10.98.0.4\n10.98.0.5"},
		"subnet":          {"127.0.0.2", nic + "subnet-ipv4-cidr-block", "10.98.0.0/20"},
		"VPC":             {"127.0.0.2", nic + "vpc-ipv4-cidr-block", "10.98.0.0/16"},
		"interface":       {"127.0.0.2", nic + "interface-id", "eni-1"},
		"macs":            {"127.0.0.2", "/latest/meta-data/network/interfaces/macs/", "02:00:00:00:00:01/"},
		"zone":            {"127.0.0.2", "/latest/meta-data/placement/availability-zone", "us-west-2a"},
		"region":          {"127.0.0.2", "/latest/meta-data/placement/region", "us-west-2"},
		"host name":       {"127.0.0.2", "/latest/meta-data/local-hostname", "ip-10-98-0-4.us-west-2.compute.internal"},
		"domain":          {"127.0.0.2", "/latest/meta-data/services/domain", "amazonaws.com"},
		"on demand":       {"127.0.0.2", "/latest/meta-data/instance-life-cycle", "on-demand"},
		"spot":            {"127.0.0.3", "/latest/meta-data/instance-life-cycle", "spot"},
		"no notice":       {"127.0.0.2", "/latest/meta-data/spot/instance-action", "404"},
		"no rebalance":    {"127.0.0.2", "/latest/meta-data/events/recommendations/rebalance", "404"},
		"notice":          {"127.0.0.3", "/latest/meta-data/spot/termination-time", "2026-01-02T03:06:05Z"},
		"no profile":      {"127.0.0.2", "/latest/meta-data/iam/security-credentials/", "404"},
		"no tags":         {"127.0.0.2", "/latest/meta-data/tags/instance/Name", "404"},
		"tags":            {"127.0.0.3", "/latest/meta-data/tags/instance/Name", "n"},
		"top":             {"127.0.0.2", "/latest/", "dynamic/\nmeta-data/\nuser-data"},
		"folder":          {"127.0.0.2", "/latest/meta-data/placement", "availability-zone\navailability-zone-id\nregion"},
		"nothing":         {"127.0.0.2", "/latest/meta-data/nothing", "404"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			status, got := s.from(t, tc.address, "GET", tc.path, headerToken, s.token(t, tc.address))
			if status == http.StatusNotFound {
				got = "404"
			}
			if got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.path, got, tc.want)
			}
		})
	}
	_, text := s.from(t, "127.0.0.3", "GET", "/latest/meta-data/spot/instance-action", headerToken, s.token(t, "127.0.0.3"))
	var notice struct{ Action, Time string }
	if err := json.Unmarshal([]byte(text), &notice); err != nil || notice.Action != "terminate" || notice.Time != "2026-01-02T03:06:05Z" {
		t.Errorf("the notice is %s: %v", text, err)
	}
	_, text = s.from(t, "127.0.0.2", "GET", "/latest/dynamic/instance-identity/document", headerToken, s.token(t, "127.0.0.2"))
	if !strings.Contains(text, `"instanceId": "i-1"`) {
		t.Errorf("the identity document is %s", text)
	}
}

// TestHopLimit sees to it that a token's packets get the instance's limit, and later answers on the same connection
// the usual one.
func TestHopLimit(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := context.WithValue(t.Context(), connKey{}, conn)
	for _, hops := range []int{1, 2, defaultIPTTL} {
		if err := setTTL(ctx, hops); err != nil {
			t.Fatal(err)
		}
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL); err != nil || got != hops {
				t.Errorf("the limit is %d, %v, want %d", got, err, hops)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}
