package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
)

func put[T any](h *harness, path string, object T) { h.Upstream.Put(path, object) }

// fillUpstream gives the API server what the web pod refers to, and more.
func fillUpstream(h *harness) {
	for _, name := range []string{"password", "pull", "other", "bootstrap-token"} {
		put(h, "/api/v1/namespaces/shop/secrets/"+name, &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, ResourceVersion: "7"},
		})
	}
	for _, name := range []string{"settings", "kube-root-ca.crt", "other"} {
		put(h, "/api/v1/namespaces/shop/configmaps/"+name, &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, ResourceVersion: "7"},
		})
	}
	claim := func(name, volume string) {
		put(h, "/api/v1/namespaces/shop/persistentvolumeclaims/"+name, &corev1.PersistentVolumeClaim{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		})
	}
	volume := func(name, claim string) {
		put(h, "/api/v1/persistentvolumes/"+name, &corev1.PersistentVolume{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}, ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{
				ClaimRef: &corev1.ObjectReference{Namespace: ns, Name: claim},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
					Driver:                     "disk.example.com",
					VolumeHandle:               "vol-" + name,
					NodeStageSecretRef:         &corev1.SecretReference{Namespace: "storage", Name: "stage-" + name},
					ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "controller-" + name},
				}},
			},
		})
		for _, secret := range []string{"stage-", "controller-"} {
			put(h, "/api/v1/namespaces/storage/secrets/"+secret+name, &corev1.Secret{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: "storage", Name: secret + name},
			})
		}
	}
	claim("data", "pv-data")
	claim("web-scratch", "pv-stolen") // claims a volume that is another's
	claim("other", "pv-other")
	volume("pv-data", "data")
	volume("pv-stolen", "somebody")
	volume("pv-other", "other")
	attachment := func(name, node, volume string) {
		put(h, "/apis/storage.k8s.io/v1/volumeattachments/"+name, &storagev1.VolumeAttachment{
			TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "VolumeAttachment"}, ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: storagev1.VolumeAttachmentSpec{NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume}},
		})
	}
	attachment("csi-own", node, "pv-data")
	attachment("csi-elsewhere", "node-7", "pv-data")
	attachment("csi-other", node, "pv-other")
}

func TestReadsOfReferredObjects(t *testing.T) {
	const base = "/api/v1/namespaces/shop/"
	by := func(name string) string { return "?fieldSelector=metadata.name%3D" + name }
	cases := map[string]struct {
		path string
		code int
		// upstream is all that reaches the API server, in any order.
		upstream []string
	}{
		"Secret":                {base + "secrets/password", 200, []string{"GET " + base + "secrets/password"}},
		"PullSecret":            {base + "secrets/pull", 200, []string{"GET " + base + "secrets/pull"}},
		"SecretList":            {base + "secrets" + by("password") + "&resourceVersion=0", 200, []string{"GET " + base + "secrets fieldSelector=metadata.name=password resourceVersion=0"}},
		"ConfigMap":             {base + "configmaps/settings", 200, []string{"GET " + base + "configmaps/settings"}},
		"RootCA":                {base + "configmaps/kube-root-ca.crt", 200, []string{"GET " + base + "configmaps/kube-root-ca.crt"}},
		"ConfigMapList":         {base + "configmaps" + by("settings"), 200, []string{"GET " + base + "configmaps fieldSelector=metadata.name=settings", "GET " + base + "configmaps fieldSelector=metadata.name=settings resourceVersion=7 watch=true"}},
		"OtherConfigMap":        {base + "configmaps/other", 403, nil},
		"OtherConfigMapList":    {base + "configmaps" + by("other"), 403, nil},
		"AllConfigMaps":         {base + "configmaps", 403, nil},
		"NamespaceOfTheOther":   {"/api/v1/namespaces/bank/configmaps/settings", 403, nil},
		"SecretNameAsConfigMap": {base + "configmaps/password", 403, nil},
		"Claim":                 {base + "persistentvolumeclaims/data", 200, []string{"GET " + base + "persistentvolumeclaims/data"}},
		"EphemeralClaim":        {base + "persistentvolumeclaims/web-scratch", 200, []string{"GET " + base + "persistentvolumeclaims/web-scratch"}},
		"OtherClaim":            {base + "persistentvolumeclaims/other", 403, nil},
		"ClaimList":             {base + "persistentvolumeclaims" + by("data"), 403, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			fillUpstream(h)
			h.State.Bind(cell, webPod())
			if code, body := h.do(t, "GET", tc.path, ""); code != tc.code {
				t.Errorf("%d %s, want %d", code, body, tc.code)
			}
			if len(tc.upstream) > 1 {
				eventually(t, "it is followed", func() bool { return len(h.Upstream.Requests()) == len(tc.upstream) })
			}
			if diff := cmp.Diff(tc.upstream, lines(h.Upstream.Requests())); diff != "" {
				t.Errorf("at the API server: -want +got:\n%s", diff)
			}
		})
	}
}

// lines is how tests compare requests.
func lines(requests []gatewaytest.Request) []string {
	var out []string
	for _, r := range requests {
		line := r.Method + " " + r.Path
		for _, key := range []string{"fieldSelector", "resourceVersion", "watch"} {
			if v := r.Query.Get(key); v != "" {
				line += " " + key + "=" + v
			}
		}
		out = append(out, line)
	}
	return out
}

// TestReadsOfVolumes checks what takes look-ups: which claims and volumes are
// read to decide is up to the order of a map, what is told is not.
func TestReadsOfVolumes(t *testing.T) {
	for path, want := range map[string]int{
		"/api/v1/persistentvolumes/pv-data":                           200,
		"/api/v1/persistentvolumes/pv-stolen":                         403,
		"/api/v1/persistentvolumes/pv-other":                          403,
		"/api/v1/persistentvolumes/pv-none":                           403,
		"/api/v1/persistentvolumes":                                   403,
		"/apis/storage.k8s.io/v1/volumeattachments/csi-own":           200,
		"/apis/storage.k8s.io/v1/volumeattachments/csi-elsewhere":     403,
		"/apis/storage.k8s.io/v1/volumeattachments/csi-other":         403,
		"/apis/storage.k8s.io/v1/volumeattachments/csi-none":          404,
		"/apis/storage.k8s.io/v1/volumeattachments":                   403,
		"/api/v1/namespaces/storage/secrets/stage-pv-data":            200,
		"/api/v1/namespaces/storage/secrets/controller-pv-data":       403,
		"/api/v1/namespaces/storage/secrets/stage-pv-stolen":          403,
		"/api/v1/namespaces/storage/secrets/stage-pv-other":           403,
		"/api/v1/namespaces/shop/secrets/other":                       403,
		"/api/v1/namespaces/shop/secrets/settings":                    403,
		"/api/v1/namespaces/shop/secrets":                             403,
		"/api/v1/namespaces/shop/secrets?fieldSelector=type%3DOpaque": 403,
	} {
		h := newHarness(t)
		fillUpstream(h)
		h.State.Bind(cell, webPod())
		code, body := h.do(t, "GET", path, "")
		if code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
		for _, r := range h.Upstream.Requests() {
			if strings.Contains(r.Path, "/secrets/") && code != 200 {
				t.Errorf("%s: a secret was asked of the API server: %s", path, r.Path)
			}
		}
	}
}

// TestNamesThatAreNoNames: the API server lets a pod name a claim, and a claim
// a volume, that could not exist. They must not become other paths.
func TestNamesThatAreNoNames(t *testing.T) {
	h := newHarness(t)
	put(h, "/api/v1/namespaces/shop/persistentvolumeclaims/data", &corev1.PersistentVolumeClaim{
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "../namespaces/kube-system/secrets/admin"},
	})
	pod := webPod()
	for _, name := range []string{"../secrets/other", "a/b", "..", "x?watch=true", "x%2f", ""} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "x", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	h.State.Bind(cell, pod)
	for _, path := range []string{"/api/v1/persistentvolumes/pv", "/api/v1/namespaces/shop/secrets/other"} {
		if code, body := h.do(t, "GET", path, ""); code != 403 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, r := range h.Upstream.Requests() {
		if r.Path != "/api/v1/namespaces/shop/persistentvolumeclaims/data" && r.Path != "/api/v1/namespaces/shop/persistentvolumeclaims/web-scratch" {
			t.Errorf("at the API server: %s", r.Path)
		}
	}
}

// TestUpstreamRequest checks all of what the API server is sent.
func TestUpstreamRequest(t *testing.T) {
	h := newHarness(t, func(c *gateway.Config) { c.Upstream.BearerToken = "kip-token" })
	fillUpstream(h)
	h.State.Bind(cell, webPod())
	code, _ := h.do(t, "GET", "/api/v1/namespaces/shop/secrets/password", "",
		"Authorization", "Bearer stolen", "Cookie", "a=b", "X-Forwarded-For", "1.2.3.4", "Accept", "application/vnd.kubernetes.protobuf, */*", "X-Evil", "1", "User-Agent", "kubelet")
	if code != 200 {
		t.Fatal(code)
	}
	got := h.Upstream.Requests()[0].Header
	got.Del("User-Agent")
	got.Del("Accept-Encoding") // client-go's transport without TLS adds it
	want := map[string][]string{
		"Accept":            {"application/json"},
		"Authorization":     {"Bearer kip-token"},
		"Impersonate-User":  {"system:node:" + node},
		"Impersonate-Group": {"system:nodes"},
	}
	if diff := cmp.Diff(want, map[string][]string(got)); diff != "" {
		t.Errorf("headers: -want +got:\n%s", diff)
	}
}

func TestUpstreamConfiguration(t *testing.T) {
	state := &gatewaytest.State{}
	h := newHarness(t)
	for name, upstream := range map[string]*rest.Config{
		"Impersonating": {Host: h.URL, Impersonate: rest.ImpersonationConfig{UserName: "admin"}},
		"NoHost":        {Host: "http://[::1"},
	} {
		config := h.Config
		config.State, config.Upstream = state, upstream
		if _, err := gateway.New(config); err == nil {
			t.Errorf("%s: a gateway was made", name)
		}
	}
	if _, err := gateway.New(gateway.Config{}); err == nil {
		t.Error("a gateway was made of nothing")
	}
}

// TestWatchOfReferredObject follows a Secret the way a kubelet does, until the
// pod is gone.
func TestWatchOfReferredObject(t *testing.T) {
	h := newHarness(t)
	fillUpstream(h)
	h.State.Bind(cell, webPod())
	startKubelet(t, h, false)
	w, err := h.client(t, false).CoreV1().Secrets(ns).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=password", ResourceVersion: "7", AllowWatchBookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	receive := func() (watch.Event, bool) {
		t.Helper()
		select {
		case e, ok := <-w.ResultChan():
			return e, ok
		case <-time.After(5 * time.Second):
			t.Fatal("the watch is silent")
			return watch.Event{}, false
		}
	}
	if e, ok := receive(); !ok || e.Type != watch.Added {
		t.Fatalf("first: %+v", e)
	}
	put(h, "/api/v1/namespaces/shop/secrets/password", &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, Data: map[string][]byte{"p": []byte("new")}})
	if e, ok := receive(); !ok || e.Type != watch.Modified || string(e.Object.(*corev1.Secret).Data["p"]) != "new" {
		t.Fatalf("then: %+v", e)
	}
	if got := h.count(t, "kip_gateway_watches", "secrets"); got != 1 {
		t.Errorf("%v watches are counted", got)
	}

	h.State.SetPod(cell, nil)
	if e, ok := receive(); ok {
		t.Errorf("after the pod has gone: %+v", e)
	}
	eventually(t, "the API server's watch ends too", func() bool {
		return h.Upstream.Watches("/api/v1/namespaces/shop/secrets/password") == 0
	})
	if got := h.count(t, "kip_gateway_requests_total", "refused"); got != 0 {
		t.Errorf("%v refusals of a healthy cell were counted", got)
	}
	if _, err := h.client(t, false).CoreV1().Secrets(ns).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=password"}); !apierrors.IsNotFound(err) {
		t.Errorf("a new watch: %v, want not found", err)
	}
}

func TestUpstreamTrouble(t *testing.T) {
	h := newHarness(t, func(c *gateway.Config) { c.Upstream.Host = "http://127.0.0.1:1" })
	h.State.Bind(cell, webPod())
	code, body := h.do(t, "GET", "/api/v1/namespaces/shop/secrets/password", "")
	if code != 503 || !strings.Contains(body, "Kip cannot reach the API server") || strings.Contains(body, "127.0.0.1") {
		t.Errorf("no API server: %d %s", code, body)
	}
}

func TestUpstreamBudget(t *testing.T) {
	h := newHarness(t)
	fillUpstream(h)
	h.State.Bind(cell, webPod())
	codes := map[int]int{}
	for range 600 {
		code, _ := h.do(t, "GET", "/api/v1/namespaces/shop/configmaps/settings", "")
		codes[code]++
	}
	if codes[200] < 400 || codes[429] == 0 || len(codes) != 2 {
		t.Errorf("answers by code: %v", codes)
	}
	if got := len(h.Upstream.Requests()); got != codes[200] {
		t.Errorf("%d requests reached the API server, %d were answered", got, codes[200])
	}
}

func TestClaimStatus(t *testing.T) {
	const path = "/api/v1/namespaces/shop/persistentvolumeclaims/data/status"
	for name, tc := range map[string]struct {
		path, mediaType, body string
		code                  int
		upstream              string
	}{
		"Resized":   {path, string(types.StrategicMergePatchType), `{"metadata":{"resourceVersion":"5"},"status":{"capacity":{"storage":"2Gi"},"$setElementOrder/conditions":[]}}`, 404, `{"metadata":{"resourceVersion":"5"},"status":{"$setElementOrder/conditions":[],"capacity":{"storage":"2Gi"}}}`},
		"Spec":      {path, string(types.StrategicMergePatchType), `{"spec":{"volumeName":"pv-other"}}`, 403, ""},
		"Labels":    {path, string(types.StrategicMergePatchType), `{"metadata":{"labels":{"a":"b"}},"status":{}}`, 403, ""},
		"Directive": {path, string(types.StrategicMergePatchType), `{"$patch":"delete"}`, 403, ""},
		"Metadata":  {path, string(types.StrategicMergePatchType), `{"metadata":[]}`, 400, ""},
		"JSONPatch": {path, "application/json-patch+json", `[]`, 415, ""},
		"Other":     {"/api/v1/namespaces/shop/persistentvolumeclaims/other/status", string(types.MergePatchType), `{"status":{}}`, 403, ""},
	} {
		h := newHarness(t)
		fillUpstream(h)
		h.State.Bind(cell, webPod())
		code, body := h.do(t, "PATCH", tc.path, tc.body, "Content-Type", tc.mediaType)
		if code != tc.code {
			t.Errorf("%s: %d %s, want %d", name, code, body, tc.code)
		}
		requests := h.Upstream.Requests()
		switch {
		case tc.upstream == "" && len(requests) > 0:
			t.Errorf("%s: at the API server: %v", name, requests)
		case tc.upstream != "" && (len(requests) != 1 || requests[0].Body != tc.upstream || requests[0].Method != "PATCH"):
			t.Errorf("%s: at the API server: %v, want the body %s", name, fmt.Sprint(requests), tc.upstream)
		}
	}
}
