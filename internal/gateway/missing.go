package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Missing is something that a pod refers to, or waits for, and that is not there.
type Missing struct {
	// Kind is Secret, ConfigMap or VolumeAttachment, whose name is its
	// PersistentVolume's.
	Kind, Name string
	// Optional: the pod can do without it.
	Optional bool
}

// maxNone is how long an answer is, in bytes, that says no more than that there
// is nothing. One with an object may be longer and is not read here.
const maxNone = kib

// noteMissing watches the answer to a request for one object by name and tells
// when it says that there is none. A kubelet says so only of what it needs, and
// late.
func (c *call) noteMissing(answer io.Reader) io.Reader {
	m, ok := c.ifMissing()
	if !ok {
		return answer
	}
	return &firstLine{Reader: answer, found: func(line []byte) {
		if saysNone(line) {
			c.tellMissing(m)
		}
	}}
}

// ifMissing is what to tell if the object that was asked for is not there; false
// if nobody needs to know.
func (c *call) ifMissing() (m Missing, ok bool) {
	name, _ := c.req.selectedName()
	m.Name = name
	refs := optionality{name: name, all: true}
	switch c.req.resource.Resource {
	case "secrets":
		m.Kind = "Secret"
		// Pull secrets are the kubelet's to complain of.
		eachSecret(c.pod, refs.see)
	case "configmaps":
		m.Kind = "ConfigMap"
		eachConfigMap(c.pod, refs.see)
	}
	m.Optional = refs.all
	return m, refs.count > 0
}

func (c *call) tellMissing(m Missing) {
	if c.g.missing != nil && c.firstMissing(m) {
		c.g.missing(c.pod, m)
	}
}

// firstMissing is true once for each object; a kubelet lists again and again.
func (c *cellState) firstMissing(m Missing) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.missing[m] {
		return false
	}
	c.missing[m] = true
	return true
}

// saysNone tells whether a list is empty, or a watch begins with the end of what
// there is.
func saysNone(line []byte) bool {
	var answer struct {
		Kind   string
		Items  []json.RawMessage
		Type   string
		Object struct{ Metadata metav1.ObjectMeta }
	}
	if json.Unmarshal(line, &answer) != nil {
		return false
	}
	if answer.Type != "" {
		return answer.Type == "BOOKMARK" && answer.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true"
	}
	return strings.HasSuffix(answer.Kind, "List") && len(answer.Items) == 0
}

// firstLine passes an answer on and shows its first line, if that is short.
type firstLine struct {
	io.Reader
	line  []byte
	done  bool
	found func([]byte)
}

func (f *firstLine) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if f.done {
		return n, err
	}
	part, _, ended := bytes.Cut(p[:n], []byte("\n"))
	f.line = append(f.line, part...)
	switch {
	case len(f.line) > maxNone:
		f.done, f.line = true, nil
	case ended || err == io.EOF:
		f.done = true
		f.found(f.line)
	}
	return n, err
}

// optionality is what is known of the references to one object.
type optionality struct {
	name  string
	count int
	all   bool
}

func (o *optionality) see(name string, optional *bool) {
	if name == o.name {
		o.count++
		o.all = o.all && optional != nil && *optional
	}
}
