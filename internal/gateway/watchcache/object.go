package watchcache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Object is one encoded state of one Kubernetes object. It never changes.
type Object struct {
	Namespace string
	Name      string
	UID       types.UID
	// Labels and Fields are what selectors are matched against.
	Labels labels.Set
	Fields fields.Set
	// Version is when this state came to be.
	Version uint64

	// rest is the object's JSON behind `{"metadata":{`.
	rest []byte
}

// metadataFirst is how the JSON of every API type starts when its kind and
// apiVersion are empty.
const metadataFirst = `{"metadata":{`

// encode turns an API object into the form that Object keeps. The object's
// TypeMeta and resourceVersion must be empty: they are added on writing.
func encode(obj any) ([]byte, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", obj, err)
	}
	rest, ok := bytes.CutPrefix(data, []byte(metadataFirst))
	if !ok {
		return nil, fmt.Errorf("encoding %T: kind and apiVersion must be empty", obj)
	}
	return bytes.Clone(rest), nil
}

// AppendJSON appends the object to dst as kind would be served by an API
// server, carrying version as its resource version.
func (o *Object) AppendJSON(dst []byte, kind schema.GroupVersionKind, version uint64) []byte {
	dst = appendTypeAndVersion(dst, kind, version)
	if o.rest[0] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, o.rest...)
}

// Decode reads the object back into obj, without kind and resource version.
func (o *Object) Decode(obj any) error {
	data := append([]byte(metadataFirst), o.rest...)
	if err := json.Unmarshal(data, obj); err != nil {
		return fmt.Errorf("decoding %s/%s: %w", o.Namespace, o.Name, err)
	}
	return nil
}

// Mentions tells whether the text is somewhere in the object's JSON. It is a
// cheap way to find the few objects that are worth decoding.
func (o *Object) Mentions(text string) bool { return bytes.Contains(o.rest, []byte(text)) }

// Showing returns the same state of the same object with the content of obj,
// whose TypeMeta and resource version must be empty; with an error, the object
// as it is.
func (o *Object) Showing(obj any) (*Object, error) {
	rest, err := encode(obj)
	if err != nil {
		return o, err
	}
	shown := *o
	shown.rest = rest
	return &shown, nil
}

// appendTypeAndVersion opens an object and its metadata, which the caller
// closes.
func appendTypeAndVersion(dst []byte, kind schema.GroupVersionKind, version uint64) []byte {
	dst = append(dst, `{"kind":"`...)
	dst = append(dst, kind.Kind...)
	dst = append(dst, `","apiVersion":"`...)
	dst = append(dst, kind.GroupVersion().String()...)
	dst = append(dst, `",`+metadataFirst[1:]+`"resourceVersion":"`...)
	dst = strconv.AppendUint(dst, version, 10)
	return append(dst, '"')
}

// sameContent tells whether two states differ in nothing but their version.
func sameContent(a, b *Object) bool {
	return a.UID == b.UID && bytes.Equal(a.rest, b.rest)
}
