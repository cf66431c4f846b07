package gateway

import (
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/podmetrics/report"
	"github.com/elotl/kip/v2/internal/watchstream"
)

// kipPrefix is where the agent itself, not the kubelet, speaks to Kip.
const kipPrefix = "/kip"

func isKipPath(path string) bool { return path == kipPrefix || strings.HasPrefix(path, kipPrefix+"/") }

// agentRule is a request that a cell's agent may make. All are a POST.
type agentRule struct {
	// resource is how it is counted.
	resource string
	// mediaType is what the body is.
	mediaType string
	// bodyLimit is the largest body in bytes.
	bodyLimit int64
	handle    func(g *Gateway, cell Cell, body []byte, w http.ResponseWriter, r *http.Request) error
}

// agentPolicy is all that an agent may ask, by path.
var agentPolicy = map[string]agentRule{
	kipPrefix + "/v1/interruption":         {"interruption", mediaTypeJSON, 4 * kib, (*Gateway).reportInterruption},
	kipPrefix + "/v1/registry-credentials": {"registrycredentials", mediaTypeJSON, 64 * kib, (*Gateway).giveRegistryCredentials},
	grant.Path:                             {"imagecache", mediaTypeJSON, 4 * kib, (*Gateway).grantLayers},
	grant.ReportPath:                       {"imagecachereport", mediaTypeJSON, grant.MaxReport, (*Gateway).takeCacheReport},
	watchstream.Path:                       {"watches", mediaTypeJSON, kib, (*Gateway).openWatches},
	watchstream.EndPath:                    {"watchend", mediaTypeJSON, kib, (*Gateway).endWatch},
	report.Path:                            {"podmetrics", report.MediaType, report.MaxEncoded, (*Gateway).takePodMetrics},
}

// serveKip answers what the agent asks.
func (g *Gateway) serveKip(state *cellState, w *answer, r *http.Request, o *outcome) error {
	if err := checkHeaders(r); err != nil {
		return err
	}
	rule, ok := agentPolicy[r.URL.Path]
	if !ok || r.URL.RawQuery != "" {
		return apierrors.NewNotFound(schema.GroupResource{}, printable(r.URL.Path))
	}
	o.resource, o.verb = rule.resource, "create"
	if r.Method != http.MethodPost {
		return refuse("an agent asks with POST")
	}
	cell, err := g.waitKnown(r.Context(), state.name)
	if err != nil {
		return err
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != rule.mediaType {
		return unsupportedMediaType("an agent sends " + rule.mediaType + " there")
	}
	body, err := readLimited(w, r, rule.bodyLimit)
	if err != nil {
		return err
	}
	if err := rule.handle(g, cell, body, w, r); err != nil {
		return err
	}
	o.by = served
	return nil
}
