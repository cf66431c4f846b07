package registry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
)

func TestPlaces(t *testing.T) {
	places, err := NewPlaces([]Mirror{
		{Hosts: []string{"_default"}, Endpoint: "http://10.0.0.1:5000"},
		{Hosts: []string{"docker.io"}, Endpoint: "https://mirror.example/v2/hub"},
		{Hosts: []string{"docker.io"}, Endpoint: "https://other.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	for image, want := range map[string][]string{
		"nginx":                   {"mirror.example/hub/library/nginx:latest", "other.example/library/nginx:latest", "index.docker.io/library/nginx:latest"},
		"registry.k8s.io/pause:3": {"10.0.0.1:5000/pause:3", "registry.k8s.io/pause:3"},
		"ghcr.io/x/y@" + digest:   {"10.0.0.1:5000/x/y@" + digest, "ghcr.io/x/y@" + digest},
		"quay.io/x":               {"10.0.0.1:5000/x:latest", "quay.io/x:latest"},
		"127.0.0.1:5000/x":        {"10.0.0.1:5000/x:latest"},
	} {
		ref, err := name.ParseReference(image)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range places.Of(ref) {
			got = append(got, p.Reference.Name())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", image, diff)
		}
	}
}

func TestNames(t *testing.T) {
	for image, want := range map[string]string{
		"nginx": "docker.io/library/nginx", "docker.io/team/app:1": "docker.io/team/app", "r.example.com:5000/a/b": "r.example.com:5000/a/b",
	} {
		ref, err := name.ParseReference(image)
		if err != nil || Name(ref.Context()) != want {
			t.Errorf("%s: %s, error %v", image, Name(ref.Context()), err)
		}
	}
}
