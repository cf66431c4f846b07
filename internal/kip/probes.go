package kip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
)

// probes answers those who watch over Kip, before there is anything else of it.
//
// /healthz is the process's own health, for which it is enough to answer. Who
// asks it ends the process if it does not, and that helps against nothing but a
// process that is stuck: of an API server or a cloud that is away the next one
// would hear no more, and would have to find all cells again besides.
//
// /readyz is whether all parts run, and an error says what Kip waits for. A Kip
// that stands by for another is ready too: what is asked is whether it can be
// counted on. The answer says which of the two it is.
type probes struct {
	ready atomic.Pointer[readiness]
}

type readiness struct {
	check healthz.Checker
	leads func() bool
}

// listen answers at an address, "0" for nowhere, until end is called.
func (p *probes) listen(address string) (end func(), err error) {
	if address == "0" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for health probes: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", healthz.CheckHandler{Checker: healthz.Ping})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		state, err := p.readyz(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintf(w, "ok: %s\n", state)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	return func() {
		_ = server.Close()
		wg.Wait()
	}, nil
}

// readyWhen names the check that decides from now on, and what tells whether
// this process leads.
func (p *probes) readyWhen(check healthz.Checker, leads func() bool) {
	p.ready.Store(&readiness{check, leads})
}

func (p *probes) readyz(r *http.Request) (state string, err error) {
	ready := p.ready.Load()
	if ready == nil {
		return "", errors.New("waiting for the API server")
	}
	if err := ready.check(r); err != nil {
		return "", err
	}
	if ready.leads() {
		return "leader", nil
	}
	return "standby", nil
}

// cachesRead is ready when pods and cells were read, which is when all parts
// run: from then on nothing of Kip waits for anything but its work.
func cachesRead(c cache.Cache) healthz.Checker {
	return func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), 500*time.Millisecond)
		defer cancel()
		if !c.WaitForCacheSync(ctx) {
			return errors.New("pods and cells were not read yet")
		}
		return nil
	}
}
