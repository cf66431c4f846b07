package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// reportInterruption takes the agent's word that the cloud announced something.
func (g *Gateway) reportInterruption(cell Cell, body []byte, w http.ResponseWriter, r *http.Request) error {
	interruption, err := decodeInterruption(body)
	if err != nil {
		return invalid("reading the report: %v", err)
	}
	if err := g.sink.Interruption(r.Context(), cell.Name, interruption); err != nil {
		return err
	}
	writeSuccess(w)
	return nil
}

func decodeInterruption(body []byte) (Interruption, error) {
	var i Interruption
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&i); err != nil {
		return i, err
	}
	if decoder.More() {
		return i, errors.New("there is more than one object")
	}
	switch i.Kind {
	case SpotInterruption, RebalanceRecommendation:
	default:
		return i, errors.New("the kind is not known")
	}
	switch i.Action {
	case "", "terminate", "stop", "hibernate":
	default:
		return i, errors.New("the action is not known")
	}
	if i.Time.IsZero() {
		return i, errors.New("the time is missing")
	}
	return i, nil
}
