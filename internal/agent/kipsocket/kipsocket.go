// Package kipsocket lets other programs in a cell ask Kip, by way of the agent,
// which alone has a connection. The agent listens on a socket that is a file that
// only root of the machine can open, and passes questions and answers on without
// looking into them. A pod that shares the cell's network does not reach it, as
// it would a port of the loopback.
package kipsocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// kipTimeout bounds the whole question to Kip, the wait for a connection
	// included: a restart of Kip takes less.
	kipTimeout = 30 * time.Second

	// Limit bounds question and answer, in bytes. A token of ECR has three or
	// four thousand, a layer of an image some hundred.
	Limit = 256 << 10
)

// Listen makes the socket and the directory it is in, and opens both to root
// alone. What an earlier agent left there is replaced.
func Listen(socket string) (net.Listener, error) {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listening at %s: %w", socket, err)
	}
	// The directory may have been there. It guards the socket from the moment
	// it exists, which its own mode cannot.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listening at %s: %w", socket, err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening at %s: %w", socket, err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening at %s: %w", socket, err), l.Close())
	}
	return l, nil
}

// Serve passes questions with the given paths to Kip over the gateway until ctx
// ends, and closes the listener.
func Serve(ctx context.Context, listener net.Listener, gateway http.RoundTripper, logger *slog.Logger, paths ...string) error {
	client := &http.Client{Transport: gateway, Timeout: kipTimeout}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !slices.Contains(paths, r.URL.Path) {
				http.NotFound(w, r)
				return
			}
			pass(w, r, client, logger)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Close()
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving at %s: %w", listener.Addr(), err)
}

// pass sends one question to Kip and its answer back.
func pass(w http.ResponseWriter, r *http.Request, client *http.Client, logger *slog.Logger) {
	question, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "https://kip"+r.URL.Path, http.MaxBytesReader(w, r.Body, Limit))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	question.ContentLength = r.ContentLength
	question.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(question)
	if err != nil {
		logger.Warn("Kip could not be asked", "path", r.URL.Path, "error", err)
		http.Error(w, "Kip cannot be asked: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, Limit))
	if err != nil {
		http.Error(w, "Kip's answer broke off: "+err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}
