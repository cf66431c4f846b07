package gateway_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	credentialproviderv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

const registryPath = "/kip/v1/registry-credentials"

// registryQuestion is what a kubelet asks its credential provider.
func registryQuestion(image string) string {
	return `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"` + image + `"}`
}

// pullingPod names a registry in every place in which a pod can.
func pullingPod() *corev1.Pod {
	pod := webPod()
	pod.Spec.Containers[0].Image = "main.example.com/web:1"
	pod.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "init.example.com:5000/tools/first@sha256:00"}}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "debug.example.com/shell"},
	}}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "model", VolumeSource: corev1.VolumeSource{
		Image: &corev1.ImageVolumeSource{Reference: "volume.example.com/model:2"},
	}})
	return pod
}

func TestRegistryCredentials(t *testing.T) {
	h := newHarness(t)
	h.State.Bind(cell, pullingPod())
	for _, host := range []string{"main.example.com", "init.example.com:5000", "debug.example.com", "volume.example.com", "other.example.com"} {
		h.Registries.Set(host, gateway.RegistryLogin{Username: "AWS", Password: "of " + host, CacheFor: time.Hour})
	}
	for name, tc := range map[string]struct {
		reason string
		image  string
		host   string // whose login is given; "" for none
	}{
		"Container": {"the image that the pod runs", "main.example.com/web", "main.example.com"},
		"Init":      {"with its port, as the image has it", "init.example.com:5000/tools/first", "init.example.com:5000"},
		"Ephemeral": {"kubectl debug", "debug.example.com/shell", "debug.example.com"},
		"Volume":    {"an image as a volume", "volume.example.com/model", "volume.example.com"},
		"SameHost":  {"a login is the registry's: which of its images makes no difference", "main.example.com/another", "main.example.com"},
		"NotNamed":  {"a registry that exists, and that this pod does not name", "other.example.com/web", ""},
		"NoHost":    {"docker.io's images have no host", "web", ""},
		"PathOnly":  {"nor has a user of docker.io", "shop/web", ""},
		"Empty":     {"no image at all", "", ""},
		"Suffix":    {"hosts are compared whole", "evil.main.example.com/web", ""},
		"Port":      {"another port is another registry", "main.example.com:444/web", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(h.Registries.Asked())
			code, body := h.do(t, "POST", registryPath, registryQuestion(tc.image))
			if tc.host == "" {
				if code != http.StatusForbidden || len(h.Registries.Asked()) != before {
					t.Fatalf("%s: %d %s; asked for %v", tc.reason, code, body, h.Registries.Asked()[before:])
				}
				return
			}
			// The type the kubelet decodes the plugin's answer into.
			var got credentialproviderv1.CredentialProviderResponse
			if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil {
				t.Fatalf("%s: %d %s, %v", tc.reason, code, body, err)
			}
			if got.APIVersion != "credentialprovider.kubelet.k8s.io/v1" || got.Kind != "CredentialProviderResponse" ||
				got.CacheKeyType != credentialproviderv1.RegistryPluginCacheKeyType || got.CacheDuration == nil || got.CacheDuration.Duration != time.Hour {
				t.Errorf("%s: %s", tc.reason, body)
			}
			want := map[string]credentialproviderv1.AuthConfig{tc.host: {Username: "AWS", Password: "of " + tc.host}}
			if diff := cmp.Diff(want, got.Auth); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
	if n := h.count(t, "kip_gateway_requests_total", "registrycredentials", "create", "refused"); n != 6 {
		t.Errorf("%v refusals were counted, want 6", n)
	}
}

func TestNoRegistryCredentials(t *testing.T) {
	h := newHarness(t)
	ask := func() (int, string) {
		return h.do(t, "POST", registryPath, registryQuestion("registry.example.com/web"))
	}
	if code, body := ask(); code != http.StatusForbidden {
		t.Errorf("a standby cell: %d %s", code, body)
	}
	h.State.Bind(cell, webPod())
	code, body := ask()
	if code != http.StatusOK || strings.Contains(body, "auth") || !strings.Contains(body, `"cacheDuration":"0s"`) {
		t.Errorf("a registry that Kip knows no login for: %d %s; nothing may be kept, as there may be one a moment later", code, body)
	}
	h.Registries.Fail(apierrors.NewServiceUnavailable("not now"))
	if code, body := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("a login that cannot be had now: %d %s", code, body)
	}
	h.Registries.Fail(errors.New("arn:aws:iam::1:role/kip"))
	if code, body := ask(); code != http.StatusInternalServerError || strings.Contains(body, "arn:") {
		t.Errorf("an error that is none of the cell's business: %d %s", code, body)
	}
	h.Registries.Fail(nil)
	for name, body := range map[string]string{
		"Kind":     strings.Replace(registryQuestion("registry.example.com/web"), "CredentialProviderRequest", "Pod", 1),
		"Version":  strings.Replace(registryQuestion("registry.example.com/web"), "io/v1", "io/v1alpha1", 1),
		"Field":    strings.Replace(registryQuestion("registry.example.com/web"), `"image"`, `"x":1,"image"`, 1),
		"Twice":    registryQuestion("registry.example.com/web") + "{}",
		"NoObject": `[]`,
	} {
		if code, answer := h.do(t, "POST", registryPath, body); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	if code, answer := h.do(t, "POST", registryPath, registryQuestion(strings.Repeat("x", 70<<10))); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large question: %d %s", code, answer)
	}
	h.State.SetPod(cell, nil)
	if code, body := ask(); code != http.StatusForbidden {
		t.Errorf("a cell whose pod is gone: %d %s", code, body)
	}
	if requests := h.Upstream.Requests(); len(requests) > 0 {
		t.Errorf("the API server was asked: %v", requests)
	}
}
