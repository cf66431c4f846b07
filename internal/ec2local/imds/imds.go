// Package imds is EC2's instance metadata service, version 2 (and 1 for instances that allow it).
//
// An instance is told by the address its connection comes from and by nothing else: the network below sees to it that
// machines can only use their own addresses. As in EC2, a token is good for the instance that fetched it only; a
// request for a token that went through a proxy is refused; and the answer to such a request travels no further than
// the instance's hop limit allows, so that what sits behind another hop (a pod behind its cell) never sees it.
package imds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is what a Server is made of.
type Config struct {
	// Lookup finds the instance that has an address.
	Lookup func(netip.Addr) (Instance, bool)
	// Key signs tokens. Tokens are good as long as it stays the same.
	Key []byte
	// Now tells the time.
	Now func() time.Time
	// Log takes what goes wrong.
	Log *slog.Logger
}

// Server is the metadata service of all instances.
type Server struct {
	cfg Config
	mux *http.ServeMux
}

// New makes a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	s.mux.HandleFunc("PUT /{version}/api/token", s.token)
	s.mux.HandleFunc("GET /{$}", s.versions)
	s.mux.HandleFunc("GET /{version}", s.get)
	s.mux.HandleFunc("GET /{version}/{path...}", s.get)
	return s
}

// versions are the versions of the metadata's layout that are understood; there is no difference between them.
var versions = []string{"2021-03-23", "latest"}

// Headers of the protocol.
const (
	headerTTL   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	headerToken = "X-Aws-Ec2-Metadata-Token"
)

const (
	maxTTL       = 6 * time.Hour
	defaultIPTTL = 64
	// drain is how long requests may take to end when the server ends.
	drain = time.Second
)

// Serve answers on a listener until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if stop() { // ended by itself
		return fmt.Errorf("serving instance metadata: %w", err)
	}
	<-stopped
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving instance metadata: %w", err)
	}
	return nil
}

// connKey is the context key of a request's connection.
type connKey struct{}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "EC2ws")
	s.mux.ServeHTTP(w, r)
}

// instance finds the instance that a request comes from; otherwise it answers the request.
func (s *Server) instance(w http.ResponseWriter, r *http.Request) (Instance, bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil {
		if i, ok := s.cfg.Lookup(from.Addr().Unmap()); ok {
			if i.Enabled {
				return i, true
			}
			http.Error(w, "Forbidden", http.StatusForbidden)
			return Instance{}, false
		}
	}
	s.cfg.Log.Warn("metadata asked for from an address that no instance has", "address", r.RemoteAddr)
	http.NotFound(w, r)
	return Instance{}, false
}

// token answers a request for a token.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	i, ok := s.instance(w, r)
	if !ok {
		return
	}
	// A proxy that was talked into passing a request on adds this.
	if len(r.Header.Values("X-Forwarded-For")) > 0 {
		http.Error(w, "Forbidden", http.StatusForbidden)
		return
	}
	seconds, err := strconv.Atoi(r.Header.Get(headerTTL))
	ttl := time.Duration(seconds) * time.Second
	if err != nil || seconds < 1 || ttl > maxTTL {
		http.Error(w, "Bad Request", http.StatusBadRequest)
		return
	}
	if err := setTTL(r.Context(), i.ResponseHopLimit); err != nil {
		s.cfg.Log.Error("limiting a token's hops", "instance", i.ID, "error", err)
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	w.Header().Set(headerTTL, strconv.Itoa(seconds))
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, s.sign(i.ID, s.cfg.Now().Add(ttl)))
}

// get answers everything that is read.
func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	i, ok := s.instance(w, r)
	if !ok || !s.admit(w, r, i) {
		return
	}
	if !slices.Contains(versions, r.PathValue("version")) {
		http.NotFound(w, r)
		return
	}
	// Connections may be used for more than one request.
	if err := setTTL(r.Context(), defaultIPTTL); err != nil {
		s.cfg.Log.Error("lifting the hop limit", "instance", i.ID, "error", err)
	}
	path := strings.Trim(r.PathValue("path"), "/")
	if path == "user-data" {
		if len(i.UserData) == 0 {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(i.UserData)
		return
	}
	content, ok := lookup(i.tree(), path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, content)
}

// versions lists the versions.
func (s *Server) versions(w http.ResponseWriter, r *http.Request) {
	if i, ok := s.instance(w, r); ok && s.admit(w, r, i) {
		fmt.Fprint(w, strings.Join(versions, "\n"))
	}
}

// admit tells whether a request may read an instance's metadata; otherwise it answers the request.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, i Instance) bool {
	token := r.Header.Get(headerToken)
	if token == "" && !i.TokensRequired || token != "" && s.valid(token, i.ID) {
		return true
	}
	http.Error(w, "Unauthorized", http.StatusUnauthorized)
	return false
}
