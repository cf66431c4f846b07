package localapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Address is where the API server listens.
const Address = "127.0.0.1:6443"

// Serve answers on the listener, which it closes, until ctx ends. Clients must
// show a certificate of the authority. When it returns no request is under way.
func Serve(ctx context.Context, listener net.Listener, authority *Authority, handler http.Handler, logger *slog.Logger) error {
	certificate, err := authority.Server("kip-cell")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler,
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{certificate.TLS},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    authority.Pool(),
			NextProtos:   []string{"h2", "http/1.1"},
		},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		// Requests end with the server: watches would hold it up for ever.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Close()
	})
	err = server.ServeTLS(listener, "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the cell's API server: %w", err)
}
