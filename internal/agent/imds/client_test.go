package imds

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// service is a metadata service with the rules that matter here: tokens by
// PUT, nothing without one.
type service struct {
	items  map[string]string
	tokens atomic.Int64
	// valid is the only token accepted; each PUT makes a new one.
	valid atomic.Value
	// failures answers that many requests with 503 first.
	failures atomic.Int64
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.failures.Add(-1) >= 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" {
		if r.Header.Get(tokenTTLHeader) == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		token := "token-" + time.Unix(s.tokens.Add(1), 0).UTC().Format("05")
		s.valid.Store(token)
		_, _ = w.Write([]byte(token))
		return
	}
	if r.Header.Get(tokenHeader) != s.valid.Load() {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, ok := s.items[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte(body))
}

func startService(t *testing.T, items map[string]string) (*service, *Client) {
	t.Helper()
	s := &service{items: items}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, New(server.URL)
}

func TestGet(t *testing.T) {
	s, c := startService(t, map[string]string{"/latest/meta-data/instance-id": "i-1"})

	for range 3 {
		got, err := c.Get(t.Context(), "meta-data/instance-id")
		if err != nil || string(got) != "i-1" {
			t.Fatalf("Get = %q, %v", got, err)
		}
	}
	if n := s.tokens.Load(); n != 1 {
		t.Errorf("%d tokens fetched for three reads, want 1", n)
	}

	s.valid.Store("the service was restarted")
	if _, err := c.Get(t.Context(), "meta-data/instance-id"); err != nil {
		t.Errorf("Get with a token the service forgot: %v", err)
	}
	if _, err := c.Get(t.Context(), "meta-data/none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a missing item: %v, want ErrNotFound", err)
	}
}

func TestAwait(t *testing.T) {
	s, c := startService(t, map[string]string{"/latest/user-data": "{}"})
	s.failures.Store(3)
	got, err := c.Await(t.Context(), "user-data")
	if err != nil || string(got) != "{}" {
		t.Errorf("Await = %q, %v", got, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Await(ctx, "meta-data/none")
	if !errors.Is(err, ErrNotFound) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Await of a missing item: %v, want both reasons", err)
	}
}

func TestAwaitInstance(t *testing.T) {
	const nic = "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/"
	base := map[string]string{
		"/latest/meta-data/instance-id": "i-1",
		"/latest/meta-data/mac":         "02:00:00:00:00:01",
		nic + "subnet-ipv4-cidr-block":  "10.98.0.0/20",
	}
	cases := map[string]struct {
		reason    string
		addresses string
		want      Instance
		err       error
	}{
		"TwoAddresses": {
			reason:    "the first address is the cell's, the second the pod's",
			addresses: "10.98.0.11\n10.98.0.12",
			want: Instance{
				ID: "i-1", MAC: "02:00:00:00:00:01", Subnet: netip.MustParsePrefix("10.98.0.0/20"),
				Primary: netip.MustParseAddr("10.98.0.11"), Pod: netip.MustParseAddr("10.98.0.12"),
			},
		},
		"OneAddress": {
			reason:    "a cell without an address for its pod is of no use, and says so",
			addresses: "10.98.0.11",
			err:       ErrNoPodAddress,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			items := map[string]string{nic + "local-ipv4s": tc.addresses}
			for k, v := range base {
				items[k] = v
			}
			_, c := startService(t, items)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			got, err := c.AwaitInstance(ctx)
			if !errors.Is(err, tc.err) {
				t.Fatalf("%s: error %v, want %v", tc.reason, err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

func TestInterruptions(t *testing.T) {
	at := time.Date(2026, 3, 1, 8, 22, 0, 0, time.UTC)
	cases := map[string]struct {
		reason string
		items  map[string]string
		want   []Interruption
		fails  bool
	}{
		"None": {reason: "no notice is the normal case and no error"},
		"Spot": {
			reason: "a spot notice names the action and its time",
			items:  map[string]string{"/latest/meta-data/spot/instance-action": `{"action":"terminate","time":"2026-03-01T08:22:00Z"}`},
			want:   []Interruption{{Kind: SpotInterruption, Action: "terminate", Time: at}},
		},
		"BrokenSpotWithRecommendation": {
			reason: "an unreadable notice does not hide the other one",
			items: map[string]string{
				"/latest/meta-data/spot/instance-action":             `?`,
				"/latest/meta-data/events/recommendations/rebalance": `{"noticeTime":"2026-03-01T08:22:00Z"}`,
			},
			want:  []Interruption{{Kind: RebalanceRecommendation, Time: at}},
			fails: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, c := startService(t, tc.items)
			got, err := c.Interruptions(t.Context())
			if (err != nil) != tc.fails {
				t.Errorf("%s: error %v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}
