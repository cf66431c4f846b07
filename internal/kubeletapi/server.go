// Package kubeletapi is the virtual node's kubelet API on port 10250: what the
// API server calls for kubectl logs, exec, attach and port-forward, and what
// metrics-server and Prometheus scrape.
//
// Every request is authenticated (TokenReview or a client certificate of the
// cluster's CA) and authorized (SubjectAccessReview on nodes/proxy and its
// kin) as a kubelet does it. What is about the whole node (the list of pods,
// stats and metrics) is answered by Kip itself. The container paths are passed through,
// upgrades included, to the kubelet of the pod's cell: Kip does not take part
// in these streams, so exit codes, terminal sizes and half-closed streams are
// the kubelet's own. The one exception is the log of a pod that ended: its
// cell is gone, and Kip answers from the logs it kept. The cell is told nothing
// of who asks, and only of the pod and containers that the path was checked
// for.
package kubeletapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	corev1 "k8s.io/api/core/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/podlogs"
)

// Pods is what the server asks of the provider.
type Pods interface {
	// CellOfPod returns the pod and the name of the cell that runs it, empty
	// when there is none. A nil pod means that the node has no such pod.
	CellOfPod(ctx context.Context, namespace, name string) (pod *corev1.Pod, cell string)
	// Pods returns all pods of the node.
	Pods(ctx context.Context) (*corev1.PodList, error)
}

// Metrics is what the server asks about what pods use (package podmetrics).
type Metrics interface {
	// Summary returns the answer to /stats/summary, of which the kubelet can
	// leave out all but CPU and memory.
	Summary(ctx context.Context, cpuAndMemory bool) (*statsv1alpha1.Summary, error)
	// The others write, in the text format, the answers to paths below
	// /metrics. They write nothing when they return an error of their own.
	WriteResource(ctx context.Context, w io.Writer) error
	WriteCAdvisor(ctx context.Context, w io.Writer) error
	WriteProbes(ctx context.Context, w io.Writer) error
}

// Config is what a Server works with.
type Config struct {
	Pods    Pods
	Metrics Metrics
	// Transport reaches a cell's agent; its error says what the cell waits for.
	Transport func(cell string) (http.RoundTripper, error)
	Logs      *podlogs.Store
	// Process has the metrics of this process, as a kubelet's /metrics has its
	// own.
	Process http.Handler
	// Auth authenticates and authorizes every request but /healthz.
	Auth  nodeutil.Auth
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Server serves the API. Use Handler or Serve.
type Server struct {
	Config
	handler   http.Handler
	followers followers
}

// New makes a Server.
func New(cfg Config) *Server {
	s := &Server{Config: cfg}
	api := http.NewServeMux()
	api.HandleFunc("GET /pods", s.pods)
	api.HandleFunc("GET /pods/{$}", s.pods)
	api.HandleFunc("GET /runningpods/{$}", s.runningPods)
	api.HandleFunc("GET /stats/summary", s.summary)
	api.HandleFunc("POST /stats/summary", s.summary) // as a kubelet's
	api.Handle("GET /metrics", cfg.Process)
	addProfiles(api)
	api.HandleFunc("GET /metrics/resource", s.text(cfg.Metrics.WriteResource))
	api.HandleFunc("GET /metrics/cadvisor", s.text(cfg.Metrics.WriteCAdvisor))
	api.HandleFunc("GET /metrics/probes", s.text(cfg.Metrics.WriteProbes))
	api.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.logs)
	for _, path := range []string{
		"/exec/{namespace}/{pod}/{container}", "/exec/{namespace}/{pod}/{uid}/{container}",
		"/attach/{namespace}/{pod}/{container}", "/attach/{namespace}/{pod}/{uid}/{container}",
		"/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}",
	} {
		// The API server uses GET for WebSocket, POST for SPDY.
		api.HandleFunc("GET "+path, s.stream)
		api.HandleFunc("POST "+path, s.stream)
	}
	api.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.stream)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/", nodeutil.WithAuth(cfg.Auth, api))
	s.handler = mux
	return s
}

// Handler is the whole API, authentication included.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l with TLS until ctx ends. Streams that are open then are
// cut: kubectl's user starts them again.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	// SPDY and WebSocket upgrades need HTTP/1.1.
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	// A certificate is one of two ways to say who one is; Auth judges it.
	config.ClientAuth = tls.RequestClientCert
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := server.Serve(tls.NewListener(l, config))
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the kubelet API: %w", err)
}
