package credentialprovider

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/agent/kipsocket"
)

// agentTimeout bounds the question to the agent: longer than the agent's own to
// Kip, and shorter than the minute after which the kubelet kills its plugin.
const agentTimeout = 45 * time.Second

// Run is the plugin's whole life: one question on stdin, its answer on stdout.
// When it returns an error nothing was written; the kubelet logs it and pulls
// without credentials.
func Run(ctx context.Context, socket string, stdin io.Reader, stdout io.Writer) error {
	question, err := io.ReadAll(io.LimitReader(stdin, kipsocket.Limit))
	if err != nil {
		return fmt.Errorf("reading the kubelet's question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(question))
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, kipsocket.Limit))
	if err != nil {
		return fmt.Errorf("reading the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("no credentials: %s: %s", resp.Status, bytes.TrimSpace(answer))
	}
	if _, err := stdout.Write(answer); err != nil {
		return fmt.Errorf("answering the kubelet: %w", err)
	}
	return nil
}
