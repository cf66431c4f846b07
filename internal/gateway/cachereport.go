package gateway

import (
	"net/http"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kjson "sigs.k8s.io/json"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
)

// CacheReports takes what cells say of images that were not read from the image
// cache.
type CacheReports interface {
	// Report takes a cell's report about its pod. It may be called from any
	// goroutine, and does not block.
	Report(pod *corev1.Pod, r grant.Report)
}

// takeCacheReport takes a cell's report. It can be about the cell's own pod only,
// and all of it but the reason is the cell's word.
func (g *Gateway) takeCacheReport(cell Cell, body []byte, w http.ResponseWriter, _ *http.Request) error {
	var r grant.Report
	if strict, err := kjson.UnmarshalStrict(body, &r); err != nil || len(strict) > 0 || !slices.Contains(grant.Reasons, r.Reason) {
		return invalid("the report is not one about the image cache")
	}
	pod := g.boundPod(cell)
	if pod == nil || g.cacheReports == nil {
		writeSuccess(w)
		return nil
	}
	if !g.cell(cell.Name).cacheReportLimit.AllowN(g.clock.Now(), 1) {
		return apierrors.NewTooManyRequests("the cell reports too often", 5)
	}
	r.Image, r.Message = strconv.QuoteToASCII(r.Image), strconv.QuoteToASCII(r.Message)
	g.cacheReports.Report(pod, r)
	writeSuccess(w)
	return nil
}
