package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	credentialproviderv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	kjson "sigs.k8s.io/json"
)

// Registries knows the logins of image registries.
type Registries interface {
	// Login returns what a pull for the pod from the registry at host, which
	// the pod names, logs in with; nil says that there is nothing to log in
	// with. An error may be an API status error. It may be called from any
	// goroutine, and may take as long as ctx lets it.
	Login(ctx context.Context, pod *corev1.Pod, host string) (*RegistryLogin, error)
}

// RegistryLogin is a user name and password for an image registry.
type RegistryLogin struct {
	Username, Password string
	// CacheFor is how long the kubelet may use it without asking again.
	CacheFor time.Duration
}

// giveRegistryCredentials answers a kubelet's image credential provider. A cell
// gets what its own pod's images need and nothing else: a login carries the
// rights of Kip's role, and whoever is root on the cell can read it.
func (g *Gateway) giveRegistryCredentials(cell Cell, body []byte, w http.ResponseWriter, r *http.Request) error {
	var question credentialproviderv1.CredentialProviderRequest
	if strict, err := kjson.UnmarshalStrict(body, &question); err != nil || len(strict) > 0 {
		return invalid("the question is not a CredentialProviderRequest")
	}
	if question.APIVersion != credentialproviderv1.SchemeGroupVersion.String() || question.Kind != "CredentialProviderRequest" {
		return invalid("the question is not a CredentialProviderRequest of %s", credentialproviderv1.SchemeGroupVersion)
	}
	host := registryOf(question.Image)
	pod := g.boundPod(cell)
	if pod == nil || !podRegistries(pod).Has(host) {
		return refuse("the cell's pod names no image of the registry %s", printable(host))
	}
	login, err := g.registries.Login(r.Context(), pod, host)
	if err != nil {
		return err
	}
	answer := credentialproviderv1.CredentialProviderResponse{
		TypeMeta:      metav1.TypeMeta{APIVersion: question.APIVersion, Kind: "CredentialProviderResponse"},
		CacheKeyType:  credentialproviderv1.RegistryPluginCacheKeyType,
		CacheDuration: &metav1.Duration{},
	}
	if login != nil {
		answer.CacheDuration.Duration = login.CacheFor
		answer.Auth = map[string]credentialproviderv1.AuthConfig{host: {Username: login.Username, Password: login.Password}}
	}
	w.Header().Set("Content-Type", mediaTypeJSON)
	// The cell hung up if this fails.
	_ = json.NewEncoder(w).Encode(answer)
	return nil
}

// registryOf is the registry that an image's name begins with, as the name has
// it; "" for one that names none, which is docker.io's.
func registryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || (!strings.ContainsAny(host, ".:") && host != "localhost") {
		return ""
	}
	return host
}

// podRegistries are the registries that a pod's images name, those of image
// volumes among them.
func podRegistries(pod *corev1.Pod) sets.Set[string] {
	hosts := sets.New[string]()
	eachImage(pod, func(image string) { hosts.Insert(registryOf(image)) })
	return hosts.Delete("")
}

// eachImage visits the images that a pod names, those of image volumes among
// them.
func eachImage(pod *corev1.Pod, visit func(image string)) {
	for i := range pod.Spec.InitContainers {
		visit(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		visit(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.EphemeralContainers {
		visit(pod.Spec.EphemeralContainers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if image := pod.Spec.Volumes[i].Image; image != nil {
			visit(image.Reference)
		}
	}
}
