package ec2local

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/fault"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// adminPrefix is where ec2local's own API lives, which plays the parts of the world that EC2's users cannot command.
const adminPrefix = "/_ec2local/"

// interruptionNotice is how long before its end a spot instance is told, unless the request says otherwise.
const interruptionNotice = 2 * time.Minute

// admin is ec2local's own API:
//
//	GET  /_ec2local/vpc                        the ID of the only VPC: {"vpcId": …}
//	GET  /_ec2local/calls                      what was called, by whom, how often, and what was denied: {"calls": …, "denied": …}
//	DELETE /_ec2local/calls                    forgets it
//	GET  /_ec2local/marketplace                what was registered and metered
//	PUT  /_ec2local/marketplace                products that cannot be used: {"CODE": "CustomerNotEntitledException"}
//	GET  /_ec2local/faults                     the rules of the fault script, as a JSON list
//	PUT  /_ec2local/faults                     replaces them
//	PUT  /_ec2local/lag                        how far reads are behind: {"appear": "5s", "stale": "2s"}
//	PUT  /_ec2local/spot-prices                prices besides the market's, as a list; see adminSpotPrice
//	POST /_ec2local/instances/{id}/interrupt   announces a spot interruption; ?after=30s, by default 2m
//	POST /_ec2local/instances/{id}/rebalance   recommends a rebalance to a spot instance
//	PUT  /_ec2local/instances/{id}/checks      what its status checks find: {"system": "impaired", "instance": "ok"}
//	PUT  /_ec2local/instances/{id}/events      what is scheduled for it, as a list; see adminEvent
func (s *Server) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+adminPrefix+"vpc", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"vpcId": s.cloud.World().VPC.ID}) // the client may be gone
	})
	mux.HandleFunc("GET "+adminPrefix+"calls", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		calls := s.gate.Calls()
		_ = json.NewEncoder(w).Encode(map[string]any{"calls": calls.Counts(), "denied": calls.Denials()}) // the client may be gone
	})
	mux.HandleFunc("DELETE "+adminPrefix+"calls", func(w http.ResponseWriter, _ *http.Request) {
		s.gate.Calls().Forget()
		adminAnswer(w, nil)
	})
	mux.HandleFunc("GET "+adminPrefix+"marketplace", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.metering.State()) // the client may be gone
	})
	mux.HandleFunc("PUT "+adminPrefix+"marketplace", func(w http.ResponseWriter, r *http.Request) {
		var products map[string]string
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&products)
		if err == nil {
			err = s.metering.Refuse(products)
		}
		adminAnswer(w, err)
	})
	mux.HandleFunc("GET "+adminPrefix+"faults", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		rules := s.faults.Rules()
		if rules == nil {
			rules = []fault.Rule{}
		}
		_ = json.NewEncoder(w).Encode(rules) // the client may be gone
	})
	mux.HandleFunc("PUT "+adminPrefix+"faults", func(w http.ResponseWriter, r *http.Request) {
		var rules []fault.Rule
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
		d.DisallowUnknownFields()
		err := d.Decode(&rules)
		if err == nil {
			err = s.faults.Set(rules)
		}
		if err == nil {
			s.cfg.Log.Info("the fault script changed", "rules", len(rules))
		}
		adminAnswer(w, err)
	})
	mux.HandleFunc("POST "+adminPrefix+"instances/{id}/interrupt", func(w http.ResponseWriter, r *http.Request) {
		after := interruptionNotice
		if text := r.URL.Query().Get("after"); text != "" {
			var err error
			if after, err = time.ParseDuration(text); err != nil {
				adminAnswer(w, err)
				return
			}
		}
		adminAnswer(w, s.cloud.Interrupt(r.PathValue("id"), after))
	})
	mux.HandleFunc("POST "+adminPrefix+"instances/{id}/rebalance", func(w http.ResponseWriter, r *http.Request) {
		adminAnswer(w, s.cloud.Rebalance(r.PathValue("id")))
	})
	s.adminHealth(mux)
	s.adminMarket(mux)
	return mux
}

// adminAnswer says nothing, or what is wrong with the request.
func adminAnswer(w http.ResponseWriter, err error) {
	var refused *query.Error
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.As(err, &refused):
		http.Error(w, refused.Error(), refused.Status)
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// fromLoopback refuses requests from other machines, the instances among them.
func fromLoopback(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "only from this machine", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
