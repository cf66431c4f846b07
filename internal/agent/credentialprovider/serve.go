package credentialprovider

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
	"time"
)

// Socket is where the agent answers in a cell.
const Socket = "/run/kip/registry-credentials.sock"

const (
	// kipURL is where Kip's gateway answers.
	kipURL = "https://kip/kip/v1/registry-credentials"

	// kipTimeout bounds the whole question to Kip, the wait for a connection
	// included: a restart of Kip takes less.
	kipTimeout = 30 * time.Second

	// limit bounds question and answer, in bytes. A token of ECR has three or
	// four thousand.
	limit = 64 << 10
)

// Listen makes the socket and the directory it is in, and opens both to root
// alone. What an earlier agent left there is replaced.
func Listen(socket string) (net.Listener, error) {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listening for the credential provider: %w", err)
	}
	// The directory may have been there. It guards the socket from the moment
	// it exists, which its own mode cannot.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listening for the credential provider: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening for the credential provider: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening for the credential provider: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for the credential provider: %w", err), l.Close())
	}
	return l, nil
}

// Serve passes questions to Kip over the gateway until ctx ends, and closes the
// listener.
func Serve(ctx context.Context, listener net.Listener, gateway http.RoundTripper, logger *slog.Logger) error {
	client := &http.Client{Transport: gateway, Timeout: kipTimeout}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { pass(w, r, client, logger) }),
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
	return fmt.Errorf("serving the credential provider: %w", err)
}

// pass sends one question to Kip and its answer back.
func pass(w http.ResponseWriter, r *http.Request, client *http.Client, logger *slog.Logger) {
	question, err := http.NewRequestWithContext(r.Context(), http.MethodPost, kipURL, http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	question.ContentLength = r.ContentLength
	question.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(question)
	if err != nil {
		logger.Warn("Kip could not be asked for a registry's credentials", "error", err)
		http.Error(w, "Kip cannot be asked: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	if err != nil {
		http.Error(w, "Kip's answer broke off: "+err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer)
}
