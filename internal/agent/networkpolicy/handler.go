package networkpolicy

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// maxUpdate bounds an update in bytes: the addresses of a million pods.
const maxUpdate = 32 << 20

// ServeHTTP takes an update from Kip.
func (p *Policy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var u rules.Update
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxUpdate)).Decode(&u); err != nil {
		http.Error(w, "reading the update: "+err.Error(), http.StatusBadRequest)
		return
	}
	err := p.Update(r.Context(), u)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, rules.ErrRevision):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.Is(err, errPartly):
		http.Error(w, err.Error(), http.StatusNotImplemented)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
