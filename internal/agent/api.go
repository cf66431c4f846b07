package agent

import (
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/internal/agent/kubelet"
	"github.com/elotl/kip/v2/internal/agent/localapi"
	"github.com/elotl/kip/v2/internal/agent/process"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
	"github.com/elotl/kip/v2/internal/userdata"
)

// handler is what Kip, and Kip alone, can ask of the agent.
func (a *Agent) handler(doc userdata.Document, toKubelet http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /kip/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.status(doc.Cell))
	})
	mux.HandleFunc("POST /kip/v1/poweroff", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		a.PowerOff("Kip asked for it")
	})
	mux.Handle("PUT "+rules.Path, a.networkPolicy)
	// The kubelet sends logs too, but a line at a time.
	logs := newPodLogs(a.PodLogDir)
	mux.Handle("GET /kip/v1/podlogs/", http.StripPrefix("/kip/v1/podlogs", logs))
	// The pod is about to end, and its kubelet will remove what it wrote.
	mux.HandleFunc("POST /kip/v1/podlogs/hold", func(w http.ResponseWriter, _ *http.Request) {
		if err := logs.hold(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/kubelet/", http.StripPrefix("/kubelet", toKubelet))
	return mux
}

func (a *Agent) status(cell string) status.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	states := map[string]process.State{}
	pids := map[int]string{}
	for name, s := range a.services {
		state := s.State()
		states[name] = state
		if state.Running {
			pids[state.PID] = name
		}
	}
	return status.Status{
		Version:       a.Version,
		Cell:          cell,
		Instance:      a.instance.ID,
		StartedAt:     a.timeline.Start(),
		Boot:          a.timeline.Steps(),
		Services:      states,
		Memory:        status.ReadMemory("/proc", pids),
		Interruptions: a.interruptions.list(),
	}
}

// kubeletAddress is where the cell's kubelet serves its own API.
var kubeletAddress = net.JoinHostPort("127.0.0.1", strconv.Itoa(kubelet.Port))

// newKubeletTransport reaches the kubelet's own API.
func newKubeletTransport(authority *localapi.Authority) (*http.Transport, error) {
	certificate, err := authority.Client("kip-cell")
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		// HTTP/1.1 only: an HTTP/2 connection cannot be upgraded.
		TLSClientConfig: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			RootCAs:      authority.Pool(),
			Certificates: []tls.Certificate{certificate.TLS},
		},
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}, nil
}

// newKubeletProxy passes requests to the kubelet's own API. Exec, attach and
// port-forward pass as the protocol upgrades they are.
func newKubeletProxy(transport http.RoundTripper, logger *slog.Logger) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", kubeletAddress, kubeletAddress
		},
		Transport: transport,
		// Followed logs are answers that never end.
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				http.Error(w, "the cell's kubelet cannot be reached: "+err.Error(), http.StatusBadGateway)
			}
		},
	}
}
