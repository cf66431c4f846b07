package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Missing is an object that a pod refers to and that is not there.
type Missing struct {
	// Kind is Secret or ConfigMap.
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
	name, _ := c.req.selectedName()
	m := Missing{Name: name}
	var references int
	switch c.req.resource.Resource {
	case "secrets":
		m.Kind = "Secret"
		references, m.Optional = optionalSecret(c.pod, name)
	case "configmaps":
		m.Kind = "ConfigMap"
		references, m.Optional = optionalConfigMap(c.pod, name)
	}
	if references == 0 || c.g.missing == nil {
		return answer
	}
	return &firstLine{Reader: answer, found: func(line []byte) {
		if saysNone(line) && c.firstMissing(m) {
			c.g.missing(c.pod, m)
		}
	}}
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

// optionalSecret counts the references to a Secret by environment and volumes,
// and tells whether all of them are optional. Pull secrets are the kubelet's to
// complain of.
func optionalSecret(pod *corev1.Pod, name string) (references int, optional bool) {
	o := optionality{name: name, all: true}
	eachContainer(&pod.Spec, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				o.see(e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Optional)
			}
		}
		for _, e := range from {
			if e.SecretRef != nil {
				o.see(e.SecretRef.Name, e.SecretRef.Optional)
			}
		}
	})
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil {
			o.see(v.Secret.SecretName, v.Secret.Optional)
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.Secret != nil {
					o.see(source.Secret.Name, source.Secret.Optional)
				}
			}
		}
	}
	return o.references, o.all
}

// optionalConfigMap is the same of a ConfigMap.
func optionalConfigMap(pod *corev1.Pod, name string) (references int, optional bool) {
	o := optionality{name: name, all: true}
	eachContainer(&pod.Spec, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				o.see(e.ValueFrom.ConfigMapKeyRef.Name, e.ValueFrom.ConfigMapKeyRef.Optional)
			}
		}
		for _, e := range from {
			if e.ConfigMapRef != nil {
				o.see(e.ConfigMapRef.Name, e.ConfigMapRef.Optional)
			}
		}
	})
	for _, v := range pod.Spec.Volumes {
		if v.ConfigMap != nil {
			o.see(v.ConfigMap.Name, v.ConfigMap.Optional)
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.ConfigMap != nil {
					o.see(source.ConfigMap.Name, source.ConfigMap.Optional)
				}
			}
		}
	}
	return o.references, o.all
}

// optionality is what is known of the references to one object.
type optionality struct {
	name       string
	references int
	all        bool
}

func (o *optionality) see(name string, optional *bool) {
	if name == o.name {
		o.references++
		o.all = o.all && optional != nil && *optional
	}
}
