package gateway

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
)

const mediaTypeJSON = "application/json"

// decodable are the media types that objects are read from. YAML and CBOR are
// not among them.
var decodable = []string{mediaTypeJSON, runtime.ContentTypeProtobuf}

// checkAccept makes sure that the client can read JSON, which is what every
// answer is. An answer in another form of the same object (Table,
// PartialObjectMetadata) is not made.
func checkAccept(h http.Header) error {
	accept := strings.Join(h.Values("Accept"), ",")
	if accept == "" {
		return nil
	}
	for _, clause := range strings.Split(accept, ",") {
		mediaType, params, err := mime.ParseMediaType(clause)
		if err != nil || params["as"] != "" {
			continue
		}
		switch mediaType {
		case mediaTypeJSON, "application/*", "*/*":
			return nil
		}
	}
	return apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", schema.GroupResource{}, "",
		"every answer is "+mediaTypeJSON+", and the request does not accept that", 0, true)
}

// readBody reads a request's body, plain and within the limit of the policy
// row, and returns its media type.
func (c *call) readBody() ([]byte, string, error) {
	if encoding := c.r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, "", unsupportedMediaType("an encoded body is not accepted")
	}
	mediaType, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil {
		return nil, "", unsupportedMediaType("the request does not say what its body is")
	}
	body, err := readLimited(c.w, c.r, c.rule.bodyLimit)
	return body, mediaType, err
}

// readLimited reads a body of at most limit bytes.
func readLimited(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return nil, err
	case err != nil:
		return nil, invalid("the body could not be read")
	}
	return body, nil
}

// decodeBody reads the body as an object of exactly the kind that into is.
func (c *call) decodeBody(into runtime.Object, kind schema.GroupVersionKind) error {
	body, mediaType, err := c.readBody()
	if err != nil {
		return err
	}
	return decodeObject(body, mediaType, into, kind)
}

// decodeDeleteOptions decodes the body of a delete request, which may be empty.
// Each group has its own name for the one type there is.
func (c *call) decodeDeleteOptions(into *metav1.DeleteOptions) error {
	if c.r.Header.Get("Content-Type") == "" && c.r.ContentLength == 0 {
		return nil
	}
	body, mediaType, err := c.readBody()
	if err != nil || len(body) == 0 {
		return err
	}
	kind := c.req.resource.GroupVersion().WithKind("DeleteOptions")
	if err := decodeObject(body, mediaType, into, kind); err != nil {
		return decodeObject(body, mediaType, into, corev1.SchemeGroupVersion.WithKind("DeleteOptions"))
	}
	return nil
}

// decodeObject decodes a body as an object of exactly one kind.
func decodeObject(body []byte, mediaType string, into runtime.Object, kind schema.GroupVersionKind) error {
	for _, info := range scheme.Codecs.SupportedMediaTypes() {
		if info.MediaType != mediaType || !slices.Contains(decodable, mediaType) {
			continue
		}
		_, actual, err := info.Serializer.Decode(body, &kind, into)
		if err != nil {
			return invalid("the body is no %s", kind.Kind)
		}
		if actual == nil || *actual != kind {
			return invalid("the body is another kind than %s", kind.Kind)
		}
		return nil
	}
	return unsupportedMediaType("a body of type " + printable(mediaType) + " is not accepted")
}

// patchBody applies the body, a strategic or JSON merge patch, to an object
// and returns the object that comes of it, in JSON, beside the patch itself.
func (c *call) patchBody(original runtime.Object) (patched []byte, patch map[string]any, err error) {
	patch, patchType, err := c.readPatch()
	if err != nil {
		return nil, nil, err
	}
	before, err := json.Marshal(original)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the object to patch: %w", err)
	}
	var document map[string]any
	if err := json.Unmarshal(before, &document); err != nil {
		return nil, nil, fmt.Errorf("reading the object to patch: %w", err)
	}
	if patchType == types.StrategicMergePatchType {
		// It may change the patch, which the caller still looks at.
		document, err = strategicpatch.StrategicMergeMapPatch(document, runtime.DeepCopyJSON(patch), original)
		if err != nil {
			return nil, nil, invalid("the patch cannot be applied")
		}
	} else {
		document = mergePatch(document, patch)
	}
	if patched, err = json.Marshal(document); err != nil {
		return nil, nil, fmt.Errorf("encoding the patched object: %w", err)
	}
	// Patch by patch an object could grow beyond any limit.
	if limit := 2 * c.rule.bodyLimit; int64(len(patched)) > limit {
		return nil, nil, &http.MaxBytesError{Limit: limit}
	}
	return patched, patch, nil
}

// readPatch reads the body as a patch of one of the two types that kubelets
// use. It is parsed once: what is looked at is what is applied or sent on.
func (c *call) readPatch() (map[string]any, types.PatchType, error) {
	body, mediaType, err := c.readBody()
	if err != nil {
		return nil, "", err
	}
	patchType := types.PatchType(mediaType)
	if patchType != types.StrategicMergePatchType && patchType != types.MergePatchType {
		return nil, "", unsupportedMediaType("a patch of type " + printable(mediaType) + " is not accepted")
	}
	var patch map[string]any
	if err := json.Unmarshal(body, &patch); err != nil || patch == nil {
		return nil, "", invalid("the patch is no JSON object")
	}
	return patch, patchType, nil
}

// mergePatch applies a JSON merge patch (RFC 7396) to a document, which it may
// change.
func mergePatch(document, patch map[string]any) map[string]any {
	if document == nil {
		document = map[string]any{}
	}
	for key, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(document, key)
		case map[string]any:
			child, _ := document[key].(map[string]any)
			document[key] = mergePatch(child, value)
		default:
			document[key] = value
		}
	}
	return document
}

func unsupportedMediaType(message string) error {
	return apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", schema.GroupResource{}, "", message, 0, true)
}
