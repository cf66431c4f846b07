package kubeletapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/elotl/kip/v2/internal/podlogs"
)

// logs answers from the cell, or from the logs that were kept when the pod
// ended. When the cell goes just now, the kept ones are there: they are kept
// before it is ended.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	t, ok := s.find(w, r)
	if !ok {
		return
	}
	// First in the count, then the look: who ends the cell keeps the logs first
	// and then looks at the count.
	defer s.followers.add(t.cell)()
	if s.Logs.Has(t.pod.UID) {
		s.keptLogs(w, r, t)
		return
	}
	s.passThrough(w, r, t, func(code int, message string) {
		if s.Logs.Has(t.pod.UID) {
			s.keptLogs(w, r, t)
			return
		}
		http.Error(w, message, code)
	})
}

func (s *Server) keptLogs(w http.ResponseWriter, r *http.Request, t target) {
	options, err := podlogs.ParseOptions(r.URL.Query(), s.Clock.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	container := r.PathValue("container")
	err = s.Logs.Read(w, t.pod.UID, container, options)
	switch {
	case errors.Is(err, fs.ErrNotExist) && options.Previous:
		http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", container, t.pod.Name), http.StatusBadRequest)
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, fmt.Sprintf("container %q in pod %q never ran", container, t.pod.Name), http.StatusBadRequest)
	case err != nil:
		s.Log.Warn("answering with kept logs", "pod", t.name(), "err", err)
	}
}
