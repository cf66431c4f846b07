package ec2local

import (
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
)

// adminSpotPrice is a spot price that differs from the market's.
type adminSpotPrice struct {
	// InstanceType and Zone are patterns with * and ?; empty ones match everything.
	InstanceType string  `json:"instanceType,omitempty"`
	Zone         string  `json:"zone,omitempty"`
	USD          float64 `json:"usd"`
}

// adminMarket adds what scripts the cloud as a whole: spot prices, and reads that lag.
func (s *Server) adminMarket(mux *http.ServeMux) {
	mux.HandleFunc("PUT "+adminPrefix+"spot-prices", func(w http.ResponseWriter, r *http.Request) {
		var wanted []adminSpotPrice
		err := adminBody(w, r, &wanted)
		if err == nil {
			prices := make([]cloud.SpotPrice, 0, len(wanted))
			for _, p := range wanted {
				prices = append(prices, cloud.SpotPrice{InstanceType: p.InstanceType, Zone: p.Zone, USD: p.USD})
			}
			err = s.cloud.SetSpotPrices(prices, interruptionNotice)
		}
		adminAnswer(w, err)
	})
	mux.HandleFunc("PUT "+adminPrefix+"lag", func(w http.ResponseWriter, r *http.Request) {
		var wanted struct{ Appear, Stale string }
		err := adminBody(w, r, &wanted)
		var lag cloud.Lag
		if err == nil {
			lag.Appear, err = adminDuration(wanted.Appear)
		}
		if err == nil {
			lag.Stale, err = adminDuration(wanted.Stale)
		}
		if err == nil {
			s.cloud.SetLag(lag)
		}
		adminAnswer(w, err)
	})
}

// adminDuration reads a duration such as 5s; nothing is 0.
func adminDuration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}
