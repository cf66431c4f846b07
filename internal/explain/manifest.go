package explain

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Source says where an object was found.
type Source struct {
	File     string `json:"file"`
	Document int    `json:"document"` // from 1
	Kind     string `json:"kind"`
	Name     string `json:"name"`
}

func (s Source) String() string {
	at := fmt.Sprintf("%s, document %d", s.File, s.Document)
	if s.Kind != "" {
		at += fmt.Sprintf(", %s %q", s.Kind, s.Name)
	}
	return at
}

// sourcedPod is a pod, or the pod that a workload would make.
type sourcedPod struct {
	Source
	pod *corev1.Pod
}

// readFiles returns the pods of all files. in is read for "-".
func readFiles(files []string, in io.Reader) ([]sourcedPod, error) {
	var pods []sourcedPod
	for _, file := range files {
		r := manifestReader{file: file}
		if file == "-" {
			r.file = "standard input"
			if err := r.read(in); err != nil {
				return nil, err
			}
		} else if err := r.open(file); err != nil {
			return nil, err
		}
		if len(r.pods) == 0 {
			return nil, r.nothing()
		}
		pods = append(pods, r.pods...)
	}
	return pods, nil
}

// manifestReader gathers the pods of one file.
type manifestReader struct {
	file   string
	pods   []sourcedPod
	passed []string // kinds without pods
}

func (r *manifestReader) open(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("reading manifest: %w", err)
	}
	defer f.Close()
	return r.read(f)
}

func (r *manifestReader) nothing() error {
	if len(r.passed) == 0 {
		return fmt.Errorf("%s: the file is empty", r.file)
	}
	slices.Sort(r.passed)
	return fmt.Errorf("%s: there is no Pod and no workload with a pod template, only %s",
		r.file, strings.Join(slices.Compact(r.passed), ", "))
}

// read takes YAML documents, of which JSON is one.
func (r *manifestReader) read(in io.Reader) error {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(in))
	for n := 1; ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s, document %d: %w", r.file, n, err)
		}
		raw, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return fmt.Errorf("%s, document %d: %w", r.file, n, err)
		}
		if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
			continue // only comments: nobody counts that as a document
		}
		if err := r.object(raw, n); err != nil {
			return err
		}
		n++
	}
}

// object takes one object in JSON, or a List of them.
func (r *manifestReader) object(raw []byte, document int) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct{ Name, GenerateName string }
		Items           []json.RawMessage
	}
	s := Source{File: r.file, Document: document}
	if err := json.Unmarshal(raw, &head); err != nil {
		return fmt.Errorf("%s: this is no Kubernetes object: %w", s, err)
	}
	s.Kind, s.Name = head.Kind, head.Metadata.Name
	if s.Name == "" {
		s.Name = head.Metadata.GenerateName
	}
	if s.Kind == "" {
		return fmt.Errorf("%s: kind is missing", s)
	}
	if s.Kind == "List" {
		for _, item := range head.Items {
			if err := r.object(item, document); err != nil {
				return err
			}
		}
		return nil
	}
	obj, template := workload(head.APIVersion, head.Kind)
	if obj == nil {
		r.passed = append(r.passed, head.Kind)
		return nil
	}
	// Strict, as the API server is to kubectl: a misspelt field is not the
	// request that its author meant.
	unknown, err := strictjson.UnmarshalStrict(raw, obj)
	if err == nil {
		err = errors.Join(unknown...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	pod := template()
	if len(pod.Spec.Containers) == 0 {
		return fmt.Errorf("%s: the pod has no containers", s)
	}
	r.pods = append(r.pods, sourcedPod{s, pod})
	return nil
}

// workload returns an object to decode into and the function that then returns
// its pod; nil for kinds that have none.
func workload(apiVersion, kind string) (obj any, pod func() *corev1.Pod) {
	of := func(t *corev1.PodTemplateSpec) func() *corev1.Pod {
		return func() *corev1.Pod { return &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec} }
	}
	switch apiVersion + " " + kind {
	case "v1 Pod":
		o := &corev1.Pod{}
		return o, func() *corev1.Pod { return o }
	case "apps/v1 Deployment":
		o := &appsv1.Deployment{}
		return o, of(&o.Spec.Template)
	case "apps/v1 StatefulSet":
		o := &appsv1.StatefulSet{}
		return o, of(&o.Spec.Template)
	case "apps/v1 DaemonSet":
		o := &appsv1.DaemonSet{}
		return o, of(&o.Spec.Template)
	case "apps/v1 ReplicaSet":
		o := &appsv1.ReplicaSet{}
		return o, of(&o.Spec.Template)
	case "batch/v1 Job":
		o := &batchv1.Job{}
		return o, of(&o.Spec.Template)
	case "batch/v1 CronJob":
		o := &batchv1.CronJob{}
		return o, of(&o.Spec.JobTemplate.Spec.Template)
	default:
		return nil, nil
	}
}
