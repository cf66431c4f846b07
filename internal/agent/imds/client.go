package imds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultEndpoint is where every EC2 instance finds its metadata service.
const DefaultEndpoint = "http://169.254.169.254"

const (
	tokenHeader    = "X-aws-ec2-metadata-token"
	tokenTTLHeader = "X-aws-ec2-metadata-token-ttl-seconds"
	// tokenTTL is the longest the service grants (six hours); the token is
	// fetched anew at half of it.
	tokenTTL = 6 * time.Hour
	// maxBody is far above any metadata item and the 16 KiB of user data.
	maxBody = 1 << 20
	// attemptTimeout bounds one request. The service is on the host, it answers
	// in a millisecond or the packet was lost.
	attemptTimeout = 2 * time.Second
)

// ErrNotFound says that the metadata service has no such item. It is not an
// error of the service: optional items, a spot notice among them, come and go.
var ErrNotFound = errors.New("no such metadata item")

// Client reads the metadata service. It is safe for concurrent use.
type Client struct {
	endpoint string
	http     *http.Client

	mu      sync.Mutex
	token   string
	renewAt time.Time
}

// New returns a client of the service at endpoint, DefaultEndpoint on a real
// instance. It does not connect.
func New(endpoint string) *Client { return newClient(endpoint, nil) }

// NewFrom is New for a machine that has several addresses, by one of which the
// service is to know it.
func NewFrom(endpoint string, address netip.Addr) *Client {
	return newClient(endpoint, net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
}

func newClient(endpoint string, from net.Addr) *Client {
	return &Client{
		endpoint: strings.TrimSuffix(endpoint, "/"),
		http: &http.Client{
			Timeout: attemptTimeout,
			Transport: &http.Transport{
				// No proxy from the environment: link-local means link-local.
				Proxy:               nil,
				DialContext:         (&net.Dialer{Timeout: time.Second, LocalAddr: from}).DialContext,
				MaxIdleConnsPerHost: 4,
				IdleConnTimeout:     30 * time.Second,
			},
		},
	}
}

// Get reads one item, for example "meta-data/instance-id", without retries
// but for one with a fresh token when the service refuses the old one. It
// returns an error that wraps ErrNotFound when there is no such item.
func (c *Client) Get(ctx context.Context, item string) ([]byte, error) {
	for fresh := false; ; fresh = true {
		token, err := c.sessionToken(ctx, fresh)
		if err != nil {
			return nil, fmt.Errorf("reading %s from the metadata service: %w", item, err)
		}
		status, body, err := c.do(ctx, http.MethodGet, "/latest/"+item, tokenHeader, token)
		if err != nil {
			return nil, fmt.Errorf("reading %s from the metadata service: %w", item, err)
		}
		switch {
		case status == http.StatusOK:
			return body, nil
		case status == http.StatusNotFound:
			return nil, fmt.Errorf("reading %s from the metadata service: %w", item, ErrNotFound)
		case status == http.StatusUnauthorized && !fresh:
			// The token ran out early, or the service forgot it.
		default:
			return nil, fmt.Errorf("reading %s from the metadata service: status %d", item, status)
		}
	}
}

// Await is Get, repeated at short intervals until the item can be read or ctx
// ends. Items that do not exist are waited for as well: some of them (the
// second address of a network interface) may appear late.
func (c *Client) Await(ctx context.Context, item string) ([]byte, error) {
	var body []byte
	err := retry(ctx, func() (err error) {
		body, err = c.Get(ctx, item)
		return err
	})
	return body, err
}

// retry repeats try until it succeeds or ctx ends, first after 20 ms, then at
// growing intervals up to half a second. It returns the last real error.
func retry(ctx context.Context, try func() error) error {
	const longest = 500 * time.Millisecond
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, longest) {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", err, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// sessionToken returns the token that requests carry, a new one when the old
// one is half through its life or fresh is set.
func (c *Client) sessionToken(ctx context.Context, fresh bool) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !fresh && c.token != "" && time.Now().Before(c.renewAt) {
		return c.token, nil
	}
	status, body, err := c.do(ctx, http.MethodPut, "/latest/api/token", tokenTTLHeader, strconv.Itoa(int(tokenTTL.Seconds())))
	if err != nil {
		return "", fmt.Errorf("getting a session token: %w", err)
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("getting a session token: status %d", status)
	}
	c.token, c.renewAt = string(body), time.Now().Add(tokenTTL/2)
	return c.token, nil
}

func (c *Client) do(ctx context.Context, method, path, header, value string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.endpoint+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set(header, value)
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, body, err
}
