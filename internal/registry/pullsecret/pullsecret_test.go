package pullsecret

import (
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
)

func TestLogins(t *testing.T) {
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	config := func(text string) *corev1.Secret {
		return &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(text)}}
	}
	for what, tc := range map[string]struct {
		reason  string
		secrets []*corev1.Secret
		image   string
		want    []string // user names
	}{
		"Host":     {"the ordinary one", []*corev1.Secret{config(`{"auths":{"quay.io":{"username":"a","password":"b"}}}`)}, "quay.io/team/app", []string{"a"}},
		"Auth":     {"as docker login writes it", []*corev1.Secret{config(`{"auths":{"quay.io":{"auth":"` + auth("a:b:c") + `"}}}`)}, "quay.io/team/app", []string{"a"}},
		"Old":      {"the older form", []*corev1.Secret{{Type: corev1.SecretTypeDockercfg, Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"https://quay.io/v1/":{"username":"a"}}`)}}}, "quay.io/app", []string{"a"}},
		"Hub":      {"what docker login writes for it", []*corev1.Secret{config(`{"auths":{"https://index.docker.io/v1/":{"username":"a"}}}`)}, "nginx", []string{"a"}},
		"HubShort": {"and what people do", []*corev1.Secret{config(`{"auths":{"docker.io":{"username":"a"}}}`)}, "team/app:1", []string{"a"}},
		"Other":    {"no login goes to a registry that it is not for", []*corev1.Secret{config(`{"auths":{"quay.io":{"username":"a"}}}`)}, "ghcr.io/team/app", nil},
		"Suffix":   {"hosts are compared whole", []*corev1.Secret{config(`{"auths":{"quay.io":{"username":"a"}}}`)}, "evil.quay.io/app", nil},
		"Glob":     {"one part at a time", []*corev1.Secret{config(`{"auths":{"*.example.com":{"username":"a"}}}`)}, "eu.example.com/app", []string{"a"}},
		"GlobDots": {"not more", []*corev1.Secret{config(`{"auths":{"*.example.com":{"username":"a"}}}`)}, "a.b.example.com/app", nil},
		"Port":     {"another port is another registry", []*corev1.Secret{config(`{"auths":{"r.example.com":{"username":"a"}}}`)}, "r.example.com:5000/app", nil},
		"Longest":  {"the entry that names most comes first", []*corev1.Secret{config(`{"auths":{"quay.io":{"username":"all"},"quay.io/team":{"username":"team"},"quay.io/te":{"username":"no"}}}`)}, "quay.io/team/app", []string{"team", "all"}},
		"Several":  {"all are tried", []*corev1.Secret{config(`{"auths":{"quay.io":{"username":"b"}}}`), config(`{"auths":{"quay.io":{"username":"a"}}}`)}, "quay.io/app", []string{"a", "b"}},
		"Broken":   {"is left out", []*corev1.Secret{config(`{`), config(`{"auths":{"quay.io":{"auth":"%"}}}`), {Type: corev1.SecretTypeOpaque}}, "quay.io/app", nil},
	} {
		t.Run(what, func(t *testing.T) {
			ref, err := name.ParseReference(tc.image)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range Logins(tc.secrets, ref.Context()) {
				got = append(got, a.Username)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
	ref, err := name.ParseReference("quay.io/app")
	if err != nil {
		t.Fatal(err)
	}
	got := Logins([]*corev1.Secret{config(`{"auths":{"quay.io":{"auth":"` + auth("a:b:c") + `"}}}`)}, ref.Context())
	if len(got) != 1 || got[0].Password != "b:c" {
		t.Errorf("the password is %v", got)
	}
}
