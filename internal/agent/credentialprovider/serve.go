package credentialprovider

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"github.com/elotl/kip/v2/internal/agent/kipsocket"
)

// Socket is where the agent answers in a cell.
const Socket = "/run/kip/registry-credentials.sock"

// path is where Kip's gateway answers.
const path = "/kip/v1/registry-credentials"

// Serve passes questions to Kip over the gateway until ctx ends, and closes the
// listener, which is one of package kipsocket.
func Serve(ctx context.Context, listener net.Listener, gateway http.RoundTripper, logger *slog.Logger) error {
	return kipsocket.Serve(ctx, listener, gateway, logger, path)
}
