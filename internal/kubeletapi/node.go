package kubeletapi

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// pods answers with all pods of the node.
func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	pods, err := s.Config.Pods.Pods(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, pods)
}

// runningPods answers with the pods that have a running container and are not
// being ended.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	pods, err := s.Config.Pods.Pods(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || !slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
			return c.State.Running != nil
		})
	})
	answerJSON(w, pods)
}

// summary answers with what the node and its pods use.
func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	summary, err := s.Metrics.Summary(r.Context(), r.FormValue("only_cpu_and_memory") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, summary)
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// The status line is out: an error here can only be the caller's leaving.
	_ = json.NewEncoder(w).Encode(v)
}

// text answers with metrics, compressed where the caller takes that: of a
// thousand pods they are tens of megabytes.
func (s *Server) text(write func(context.Context, io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := &lazyText{w: w, compress: strings.Contains(r.Header.Get("Accept-Encoding"), "gzip")}
		err := write(r.Context(), out)
		switch {
		case err != nil && out.to == nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case err != nil:
			// The caller left, or must not take what there is for the whole.
			panic(http.ErrAbortHandler)
		default:
			_ = out.close()
		}
	}
}

// lazyText begins the answer with the first byte of it.
type lazyText struct {
	w        http.ResponseWriter
	compress bool
	to       io.Writer // nil before
	zipped   *gzip.Writer
}

func (l *lazyText) Write(p []byte) (int, error) {
	if l.to == nil {
		l.begin()
	}
	return l.to.Write(p)
}

func (l *lazyText) begin() {
	l.w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	l.to = l.w
	if l.compress {
		l.w.Header().Set("Content-Encoding", "gzip")
		// The level exists: there can be no error.
		l.zipped, _ = gzip.NewWriterLevel(l.w, gzip.BestSpeed)
		l.to = l.zipped
	}
}

func (l *lazyText) close() error {
	if l.to == nil {
		l.begin()
	}
	if l.zipped == nil {
		return nil
	}
	return l.zipped.Close()
}
