package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
)

const (
	// upstreamTimeout bounds a request to the API server that is no watch.
	upstreamTimeout = 30 * time.Second
	// maxUpstreamObject is the largest object that the gateway reads itself,
	// in bytes; the API server keeps none larger than 3 MiB.
	maxUpstreamObject = 4 * mib
)

// upstream speaks to the API server as a virtual node, so that the Node
// authorizer and NodeRestriction judge every request once more.
type upstream struct {
	config *rest.Config
	base   *url.URL

	mu sync.Mutex
	// transports are per virtual node; Kip runs one or few of them.
	transports map[string]http.RoundTripper
}

func newUpstream(config *rest.Config) (*upstream, error) {
	if config.Impersonate.UserName != "" || len(config.Impersonate.Groups) > 0 {
		return nil, errors.New("the API server's configuration impersonates already")
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("finding the API server: %w", err)
	}
	config = rest.CopyConfig(config)
	config.DisableCompression = true // watches are passed on as they come
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	return &upstream{config: config, base: base, transports: map[string]http.RoundTripper{}}, nil
}

// transport returns the way to the API server as a virtual node.
func (u *upstream) transport(node string) (http.RoundTripper, error) {
	if len(validation.IsDNS1123Subdomain(node)) > 0 {
		return nil, fmt.Errorf("impersonating a node: %q is not the name of one", node)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if t := u.transports[node]; t != nil {
		return t, nil
	}
	config := rest.CopyConfig(u.config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:node:" + node,
		Groups:   []string{"system:nodes"},
	}
	t, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("impersonating node %s: %w", node, err)
	}
	u.transports[node] = t
	return t, nil
}

// upstreamRequest is a request to the API server. All of it is made by the
// gateway.
type upstreamRequest struct {
	method      string
	path        string
	query       url.Values
	contentType string
	body        []byte
}

// plainPath is what every path to the API server looks like. All were made by
// request.path from names that were checked; this is the last door.
var plainPath = regexp.MustCompile(`^(/[a-z0-9]([-.a-z0-9]*[a-z0-9])?)+$`)

// send sends a request as the cell's virtual node, within the cell's budget.
// The caller closes the answer's body.
func (c *call) send(ctx context.Context, request upstreamRequest) (*http.Response, error) {
	if !c.upstreamLimit.AllowN(c.g.clock.Now(), 1) {
		return nil, apierrors.NewTooManyRequests("the cell asks too much", 1)
	}
	return c.g.send(ctx, c.cell.NodeName, request)
}

// send sends a request as a virtual node. The caller closes the answer's body.
func (g *Gateway) send(ctx context.Context, node string, request upstreamRequest) (*http.Response, error) {
	if !plainPath.MatchString(request.path) {
		return nil, fmt.Errorf("asking the API server: %q is not a plain path", request.path)
	}
	u := g.upstream
	transport, err := u.transport(node)
	if err != nil {
		return nil, err
	}
	target := *u.base
	target.Path = strings.TrimSuffix(target.Path, "/") + request.path
	target.RawQuery = request.query.Encode()
	var body io.Reader
	if request.body != nil {
		body = bytes.NewReader(request.body)
	}
	r, err := http.NewRequestWithContext(ctx, request.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("asking the API server: %w", err)
	}
	r.Header.Set("Accept", mediaTypeJSON)
	if request.contentType != "" {
		r.Header.Set("Content-Type", request.contentType)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		g.log.WarnContext(ctx, "the API server did not answer", "path", request.path, "err", err)
		return nil, unavailable("Kip cannot reach the API server")
	}
	return resp, nil
}

// forward sends a request and passes the answer on.
func (c *call) forward(request upstreamRequest) error {
	ctx, cancel := context.WithTimeout(c.ctx, upstreamTimeout)
	defer cancel()
	resp, err := c.send(ctx, request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.passOn(resp, false)
}

// forwardWatch sends a watch and passes its events on as they come, as long as
// the pod is the cell's.
func (c *call) forwardWatch(request upstreamRequest) error {
	ctx, done := c.untilPodGone(c.ctx)
	if c.g.boundPod(c.cell) == nil {
		done()
		return c.noPod() // it went before there was a stream to end
	}
	if c.stream != nil {
		return c.streamForwarded(ctx, done, request)
	}
	defer done()
	gauge := c.g.metrics.watches.WithLabelValues(c.req.resource.Resource)
	gauge.Inc()
	defer gauge.Dec()
	resp, err := c.send(ctx, request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.passOn(resp, true)
}

// passOn answers with what the API server answered: its status, its JSON, and
// nothing else.
func (c *call) passOn(resp *http.Response, streaming bool) error {
	contentType := resp.Header.Get("Content-Type")
	if resp.StatusCode < 200 || resp.StatusCode >= 300 && resp.StatusCode < 400 || !strings.HasPrefix(contentType, mediaTypeJSON) {
		return fmt.Errorf("the API server answered with status %d and type %q", resp.StatusCode, contentType)
	}
	if resp.StatusCode >= 400 {
		c.by = failed
	}
	c.w.Header().Set("Content-Type", mediaTypeJSON)
	if after := resp.Header.Get("Retry-After"); after != "" {
		c.w.Header().Set("Retry-After", after)
	}
	c.w.WriteHeader(resp.StatusCode)
	body := io.Reader(resp.Body)
	if c.filter != nil && resp.StatusCode == http.StatusOK {
		body = c.filter(body)
	}
	if !streaming {
		if _, err := io.Copy(c.w, body); err != nil {
			return fmt.Errorf("passing on the API server's answer: %w", err)
		}
		return nil
	}
	passEvents(c.w, http.NewResponseController(c.w).Flush, body)
	return nil
}

// passEvents passes a watch on until one of its two ends hangs up, which is how
// every watch ends, and no error.
func passEvents(w io.Writer, flush func() error, events io.Reader) {
	buf := make([]byte, kib)
	for flush() == nil {
		n, readErr := events.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil || readErr != nil {
			return
		}
	}
}

// fetch reads an object for the gateway itself, and returns its JSON too. A
// status that the API server answers instead is the error.
func (c *call) fetch(path string, into any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.ctx, upstreamTimeout)
	defer cancel()
	resp, err := c.send(ctx, upstreamRequest{method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxUpstreamObject))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(path, resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// statusError is the error that an answer of the API server is.
func statusError(path string, code int, answer []byte) error {
	var status metav1.Status
	if err := json.Unmarshal(answer, &status); err != nil || status.Code == 0 {
		return fmt.Errorf("reading %s: status %d", path, code)
	}
	return &apierrors.StatusError{ErrStatus: status}
}
