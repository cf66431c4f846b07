package snapshotter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
)

const (
	// grantPatience bounds the question to Kip, which a pod's start waits for.
	grantPatience = 5 * time.Second
	// reportPatience bounds a report, which nothing waits for.
	reportPatience = 30 * time.Second
	// answerLimit bounds Kip's answer in bytes: some hundred for each layer.
	answerLimit = 1 << 20
	// reportsKept is how many reports may wait for Kip.
	reportsKept = 32
)

// Kip asks and tells Kip, by way of the agent's socket.
type Kip struct {
	client  *http.Client
	reports chan grant.Report
	logger  *slog.Logger
}

var _ Grants = (*Kip)(nil)

// NewKip returns a Kip that is reached over the agent's socket.
func NewKip(socket string, logger *slog.Logger) *Kip {
	return &Kip{
		client: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
			IdleConnTimeout: time.Minute,
		}},
		reports: make(chan grant.Report, reportsKept),
		logger:  logger,
	}
}

// Grant implements Grants.
func (k *Kip) Grant(ctx context.Context, q grant.Question) (grant.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, grantPatience)
	defer cancel()
	var answer grant.Answer
	body, err := k.post(ctx, grant.Path, q)
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil {
		return grant.Answer{}, fmt.Errorf("asking Kip for layers of the cache: %w", err)
	}
	return answer, nil
}

// Report keeps a report until Send has sent it.
func (k *Kip) Report(r grant.Report) {
	if limit := grant.MaxReport / 4; len(r.Message) > limit {
		r.Message = r.Message[:limit]
	}
	select {
	case k.reports <- r:
	default:
		k.logger.Warn("too many reports wait for Kip; this one is lost", "image", r.Image, "reason", r.Reason)
	}
}

// Send sends reports to Kip, in their order, until ctx ends.
func (k *Kip) Send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-k.reports:
			once, cancel := context.WithTimeout(ctx, reportPatience)
			if _, err := k.post(once, grant.ReportPath, r); err != nil && ctx.Err() == nil {
				k.logger.Warn("Kip does not know of this", "image", r.Image, "reason", r.Reason, "error", err)
			}
			cancel()
		}
	}
}

func (k *Kip) post(ctx context.Context, path string, what any) ([]byte, error) {
	body, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(answer[:min(len(answer), 200)]))
	}
	return answer, nil
}
