package gateway

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kipPrefix is where the agent itself, not the kubelet, speaks to Kip.
const kipPrefix = "/kip"

const interruptionPath = kipPrefix + "/v1/interruption"

// maxInterruption is the largest body of an interruption report, in bytes.
const maxInterruption = 4 * kib

func isKipPath(path string) bool { return path == kipPrefix || strings.HasPrefix(path, kipPrefix+"/") }

// serveKip answers the agent's reports. There is one.
func (g *Gateway) serveKip(state *cellState, w *answer, r *http.Request, o *outcome) error {
	if err := checkHeaders(r); err != nil {
		return err
	}
	if r.URL.Path != interruptionPath || r.URL.RawQuery != "" {
		return apierrors.NewNotFound(schema.GroupResource{}, printable(r.URL.Path))
	}
	o.resource, o.verb = "interruption", "create"
	if r.Method != http.MethodPost {
		return refuse("an interruption is reported with POST")
	}
	if _, err := g.waitKnown(r.Context(), state.name); err != nil {
		return err
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != mediaTypeJSON {
		return unsupportedMediaType("a report is " + mediaTypeJSON)
	}
	body, err := readLimited(w, r, maxInterruption)
	if err != nil {
		return err
	}
	interruption, err := decodeInterruption(body)
	if err != nil {
		return invalid("reading the report: %v", err)
	}
	if err := g.sink.Interruption(r.Context(), state.name, interruption); err != nil {
		return err
	}
	o.by = served
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
