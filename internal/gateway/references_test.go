package gateway

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// walk visits every field that can be reached from a type, by its path. A
// slice has one element.
func walk(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	visit(path, v)
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		walk(v.Elem(), path, visit)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Struct && v.Type().Elem().Kind() != reflect.Pointer {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		walk(v.Index(0), path+"[]", visit)
	case reflect.Struct:
		if v.Type().PkgPath() != "k8s.io/api/core/v1" {
			return
		}
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if v.Type().Field(i).Anonymous {
				walk(v.Field(i), path, visit)
				continue
			}
			walk(v.Field(i), path+"."+name, visit)
		}
	}
}

// namesOf sets every string that is, by its path, the name of an object of
// the kind to a name of its own, and returns the names by path.
func namesOf(object any, kind string) map[string]string {
	names := map[string]string{}
	walk(reflect.ValueOf(object).Elem(), "", func(path string, v reflect.Value) {
		if v.Kind() != reflect.String || !strings.Contains(path, kind) {
			return
		}
		leaf := path[strings.LastIndexByte(path, '.')+1:]
		if leaf != "Name" && leaf != kind+"Name" {
			return
		}
		name := fmt.Sprint("name-", len(names))
		v.SetString(name)
		names[path] = name
	})
	return names
}

func found(refs references) []string {
	var names []string
	for ref := range refs {
		names = append(names, ref.name)
	}
	slices.Sort(names)
	return names
}

// missing are the paths whose names were not found.
func missing(names map[string]string, refs references, namespace string) []string {
	var paths []string
	for path, name := range names {
		if !refs.has(namespace, name) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// TestEveryReferenceOfAPod looks at the API type itself: a field for a Secret
// or ConfigMap that Kubernetes adds later makes this test fail until somebody
// has decided on it.
func TestEveryReferenceOfAPod(t *testing.T) {
	for kind, tc := range map[string]struct {
		find func(*corev1.Pod) references
		// least is how many fields there are now.
		least int
	}{"Secret": {podSecrets, 18}, "ConfigMap": {podConfigMaps, 8}} {
		pod := &corev1.Pod{}
		pod.Namespace = "shop"
		names := namesOf(&pod.Spec, kind)
		if len(names) < tc.least {
			t.Fatalf("%s: the walk found only %v", kind, names)
		}
		refs := tc.find(pod)
		if diff := cmp.Diff([]string(nil), missing(names, refs, "shop")); diff != "" {
			t.Errorf("%s: fields that are not looked at:\n%s", kind, diff)
		}
		if diff := cmp.Diff(slices.Sorted(maps.Values(names)), found(refs)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", kind, diff)
		}
	}
}

// controllerOnly are the Secrets of a volume that no node is to see.
var controllerOnly = []string{
	".PersistentVolumeSource.CSI.ControllerExpandSecretRef.Name",
	".PersistentVolumeSource.CSI.ControllerPublishSecretRef.Name",
}

// TestEveryReferenceOfAVolume is the same for persistent volumes.
func TestEveryReferenceOfAVolume(t *testing.T) {
	volume := &corev1.PersistentVolume{}
	names := namesOf(&volume.Spec.PersistentVolumeSource, "Secret")
	for path, name := range maps.Clone(names) {
		delete(names, path)
		names[".PersistentVolumeSource"+path] = name
	}
	clearNamespaces(volume)
	volume.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: "data"}
	if diff := cmp.Diff(controllerOnly, missing(names, volumeSecrets(volume), "shop")); diff != "" {
		t.Errorf("fields that are not looked at: -want +got:\n%s", diff)
	}
}

// clearNamespaces makes all Secrets of a volume those of its claim's
// namespace.
func clearNamespaces(volume *corev1.PersistentVolume) {
	var visit func(v reflect.Value)
	visit = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				visit(v.Elem())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if name := v.Type().Field(i).Name; name == "Namespace" || name == "SecretNamespace" {
					v.Field(i).SetZero()
					continue
				}
				visit(v.Field(i))
			}
		}
	}
	visit(reflect.ValueOf(&volume.Spec.PersistentVolumeSource))
}

func TestVolumeSecretNamespaces(t *testing.T) {
	elsewhere := "storage"
	for name, tc := range map[string]struct {
		source corev1.PersistentVolumeSource
		want   reference
	}{
		"Named":     {corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "s"}}}, reference{"storage", "s"}},
		"Claim":     {corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{SecretRef: &corev1.SecretReference{Name: "s"}}}, reference{"shop", "s"}},
		"AzureFile": {corev1.PersistentVolumeSource{AzureFile: &corev1.AzureFilePersistentVolumeSource{SecretName: "s", SecretNamespace: &elsewhere}}, reference{"storage", "s"}},
	} {
		volume := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: tc.source, ClaimRef: &corev1.ObjectReference{Namespace: "shop"}}}
		if diff := cmp.Diff(references{tc.want: {}}, volumeSecrets(volume)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestPodClaims(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = "shop", "web"
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		{Name: "c", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	if diff := cmp.Diff(references{{"shop", "data"}: {}, {"shop", "web-b"}: {}}, podClaims(pod)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestPolicy checks the table against itself.
func TestPolicy(t *testing.T) {
	if len(rules) != len(policy) {
		t.Errorf("%d rows, %d of them different: two rows are the same", len(policy), len(rules))
	}
	for i := range policy {
		r := &policy[i]
		writes := r.verb != "get" && r.verb != "list" && r.verb != "watch"
		if writes != (r.bodyLimit > 0) {
			t.Errorf("%s %s: body limit %d", r.verb, r.resource, r.bodyLimit)
		}
		if _, ok := parameters[r.verb]; !ok {
			t.Errorf("%s: no query parameters are known", r.verb)
		}
		if r.by == proxied && r.resource.Resource == "pods" {
			t.Errorf("%s %s reaches the API server", r.verb, r.resource)
		}
	}
}
