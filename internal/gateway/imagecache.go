package gateway

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	kjson "sigs.k8s.io/json"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
)

// ImageCache knows what is in the image cache, and who may have it.
type ImageCache interface {
	// Grant answers what the cell of this pod may have of an image that the pod
	// names. It may be called from any goroutine, and may take as long as ctx
	// lets it.
	Grant(ctx context.Context, pod *corev1.Pod, q grant.Question) (grant.Answer, error)
}

// grantLayers answers a cell that may have the layers of its pod's image from
// the image cache. Whoever is root on the cell has the keys then.
func (g *Gateway) grantLayers(cell Cell, body []byte, w http.ResponseWriter, r *http.Request) error {
	var q grant.Question
	if strict, err := kjson.UnmarshalStrict(body, &q); err != nil || len(strict) > 0 {
		return invalid("the question is not one about the image cache")
	}
	pod := g.boundPod(cell)
	if pod == nil || !podImages(pod).Has(wholeName(q.Image)) {
		return refuse("the cell's pod does not name the image %s", printable(q.Image))
	}
	var answer grant.Answer
	if g.imageCache != nil {
		var err error
		if answer, err = g.imageCache.Grant(r.Context(), pod, q); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", mediaTypeJSON)
	// The cell hung up if this fails.
	_ = json.NewEncoder(w).Encode(answer)
	return nil
}

// wholeName is an image's name with all that a short one leaves out; "" for what
// is none.
func wholeName(image string) string {
	ref, err := name.ParseReference(image)
	if err != nil {
		return ""
	}
	return ref.Name()
}

// podImages are the whole names of a pod's images, those of image volumes among
// them.
func podImages(pod *corev1.Pod) sets.Set[string] {
	names := sets.New[string]()
	eachImage(pod, func(image string) { names.Insert(wholeName(image)) })
	return names.Delete("")
}
