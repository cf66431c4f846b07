package ec2local

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
)

// adminEvent is an event that shall be scheduled for an instance.
type adminEvent struct {
	// Code is EC2's, such as instance-retirement.
	Code        string    `json:"code"`
	Description string    `json:"description,omitempty"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter,omitzero"`
}

// adminHealth adds what scripts the health of instances.
func (s *Server) adminHealth(mux *http.ServeMux) {
	mux.HandleFunc("PUT "+adminPrefix+"instances/{id}/checks", func(w http.ResponseWriter, r *http.Request) {
		var checks struct{ System, Instance string }
		err := adminBody(w, r, &checks)
		if err == nil {
			err = s.cloud.SetChecks(r.PathValue("id"), cloud.Checks{System: checks.System, Instance: checks.Instance})
		}
		adminAnswer(w, err)
	})
	mux.HandleFunc("PUT "+adminPrefix+"instances/{id}/events", func(w http.ResponseWriter, r *http.Request) {
		var wanted []adminEvent
		err := adminBody(w, r, &wanted)
		if err == nil {
			events := make([]cloud.Event, 0, len(wanted))
			for _, e := range wanted {
				events = append(events, cloud.Event{
					Code: e.Code, Description: e.Description, NotBefore: e.NotBefore, NotAfter: e.NotAfter,
				})
			}
			err = s.cloud.Schedule(r.PathValue("id"), events)
		}
		adminAnswer(w, err)
	})
}

// adminBody reads the JSON of a request.
func adminBody(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
