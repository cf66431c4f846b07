package hollowcell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/elotl/kip/v2/internal/agent/imds"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/agent/watches"
	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
	"github.com/elotl/kip/v2/internal/tunnel"
	"github.com/elotl/kip/v2/internal/userdata"
)

// version is what a hollow cell's agent and kubelet say of themselves.
const version = "hollow"

// cell is what an agent is in a real one.
type cell struct {
	address  netip.Addr
	metadata string

	policyMu sync.Mutex
	policy   rules.State
}

// run is the cell's life. It returns nil only when ctx ended.
func (c *cell) run(ctx context.Context) error {
	metadata := imds.NewFrom(c.metadata, c.address)
	instance, err := metadata.AwaitInstance(ctx)
	if err != nil {
		return err
	}
	raw, err := metadata.Await(ctx, "user-data")
	if err != nil {
		return fmt.Errorf("reading user data: %w", err)
	}
	doc, err := userdata.Decode(raw)
	if err != nil {
		return err
	}
	c.policy = rules.Closed()
	server, err := tunnel.NewServer(tunnel.ServerConfig{
		Cell: doc.Cell, CACertificates: doc.CACertificates, EnrolmentToken: doc.EnrolmentToken,
		Store: &memory{}, API: c.api(doc.Cell, instance.ID), Version: version,
		// It would tell of each of thousands that Kip came and went.
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.address.String(), strconv.Itoa(tunnel.Port)))
	if err != nil {
		return fmt.Errorf("listening for Kip: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(ctx, listener) })
	group.Go(func() error {
		gateway := watches.New(server.Gateway(), slog.New(slog.DiscardHandler))
		defer gateway.Close()
		newKubelet(doc.Node.Name, instance, gateway).run(ctx)
		return nil
	})
	return group.Wait()
}

// api is what Kip asks of an agent.
func (c *cell) api(name, instance string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /kip/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status.Status{Version: version, Cell: name, Instance: instance})
	})
	mux.HandleFunc("PUT "+rules.Path, c.putPolicy)
	// The log of a container that said nothing.
	mux.HandleFunc("GET /kip/v1/podlogs/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /kip/v1/podlogs/hold", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

// putPolicy keeps up with the rules for the pod's traffic, which there is none of.
func (c *cell) putPolicy(w http.ResponseWriter, r *http.Request) {
	var update rules.Update
	if err := json.NewDecoder(r.Body).Decode(&update); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.policyMu.Lock()
	defer c.policyMu.Unlock()
	next, err := c.policy.Apply(update)
	switch {
	case errors.Is(err, rules.ErrRevision):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		c.policy = next
		w.WriteHeader(http.StatusNoContent)
	}
}

// memory is a tunnel.Store for an agent whose process ends with its machine.
type memory struct{ identity *tunnel.Identity }

// Load implements tunnel.Store.
func (m *memory) Load() (tunnel.Identity, error) {
	if m.identity == nil {
		return tunnel.Identity{}, fs.ErrNotExist
	}
	return *m.identity, nil
}

// Save implements tunnel.Store.
func (m *memory) Save(id tunnel.Identity) error {
	m.identity = &id
	return nil
}
