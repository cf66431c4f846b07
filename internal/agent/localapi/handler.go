package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"path"
	"strings"
	"time"
)

// DefaultHold is how long a request waits for Kip to connect: longer than a
// restart of Kip takes, shorter than what clients put up with.
const DefaultHold = 10 * time.Second

// maxBody bounds the body of a request, in bytes. Kip takes up to 3 MiB for the
// status of a pod, and less for all else.
const maxBody = 4 << 20

// errNoKip ends a request that waited in vain.
var errNoKip = errors.New("the cell has no connection to Kip")

// Handler sends every request over the gateway, answers as they come, and holds
// those that arrive while Kip is away, for at most hold. Paths below /kip/ are
// the agent's own and refused.
func Handler(gateway http.RoundTripper, hold time.Duration, logger *slog.Logger) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", "kip", "kip"
		},
		Transport: &holder{next: gateway, hold: hold},
		// Watches are answers that never end: nothing may sit in a buffer.
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the client is gone
			}
			logger.Warn("a request to the API server failed", "method", r.Method, "path", r.URL.Path, "error", err)
			if errors.Is(err, errNoKip) {
				// It was never sent, so it may be sent again.
				w.Header().Set("Retry-After", "1")
			}
			writeStatus(w, http.StatusServiceUnavailable, "ServiceUnavailable", err.Error())
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := path.Clean("/" + r.URL.Path); p == "/kip" || strings.HasPrefix(p, "/kip/") {
			writeStatus(w, http.StatusForbidden, "Forbidden", "paths below /kip/ are the agent's own")
			return
		}
		if err := readBody(w, r); err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				writeStatus(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", fmt.Sprintf("the request is larger than %d bytes", maxBody))
			}
			return // otherwise the client is gone
		}
		proxy.ServeHTTP(w, r)
	})
}

// readBody takes the request's whole body into memory before any of it is sent
// on. Kip refuses many a request before it has read the body. A client that
// sees that stops sending, and then a proxy in the middle of passing the body
// on would wait for its rest, and the client for the end of the answer.
func readBody(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return nil
}

// holder bounds how long a request waits for a connection to Kip, and not how
// long Kip takes to answer, which for a watch is for ever.
type holder struct {
	next http.RoundTripper
	hold time.Duration
}

// RoundTrip implements http.RoundTripper.
func (h *holder) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	patience := time.AfterFunc(h.hold, func() { cancel(errNoKip) })
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// The request is on its way: Kip is there.
		WroteHeaders: func() { patience.Stop() },
	})
	resp, err := h.next.RoundTrip(r.WithContext(ctx))
	patience.Stop()
	if err != nil {
		defer cancel(nil)
		if errors.Is(context.Cause(ctx), errNoKip) {
			return nil, fmt.Errorf("%w since %s", errNoKip, h.hold)
		}
		return nil, err
	}
	// The context belongs to the answer's body now; the incoming request's end
	// ends it.
	context.AfterFunc(r.Context(), func() { cancel(nil) })
	return resp, nil
}

// writeStatus answers as an API server does when it fails.
func writeStatus(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{},
		"status": "Failure", "reason": reason, "message": message, "code": code,
	})
}
