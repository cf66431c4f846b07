package gateway_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestCreateToken(t *testing.T) {
	uid := webPod().UID
	bound := func() *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: uid}
	}
	seconds := func(n int64) *int64 { return &n }
	cases := map[string]struct {
		reason             string
		namespace, account string
		spec               authenticationv1.TokenRequestSpec
		// want is the life of the token that is asked of the API server; 0 if
		// the request is refused.
		want int64
	}{
		"Default":         {"the token every pod has", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), ExpirationSeconds: seconds(3600)}, 3600},
		"Unsaid":          {"the life that the volume has", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound()}, 3600},
		"Vault":           {"the other audience, with its life", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), Audiences: []string{"vault"}, ExpirationSeconds: seconds(7200)}, 7200},
		"Shorter":         {"a shorter life", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), ExpirationSeconds: seconds(600)}, 600},
		"CSI":             {"an audience of a CSI driver of the pod", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), Audiences: []string{"sts.example.com"}}, 3600},
		"CSIVolume":       {"an audience of the driver of its persistent volume", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), Audiences: []string{"disk"}, ExpirationSeconds: seconds(900)}, 900},
		"CSIOther":        {"an audience of a driver that the pod does not use", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), Audiences: []string{"unused"}}, 0},
		"Longer":          {"a longer life than the pod asks for", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), ExpirationSeconds: seconds(3601)}, 0},
		"Eternal":         {"nearly for ever", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), ExpirationSeconds: seconds(1 << 40)}, 0},
		"TooShort":        {"shorter than the API allows", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), ExpirationSeconds: seconds(1)}, 0},
		"Negative":        {"no life at all", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), ExpirationSeconds: seconds(-1)}, 0},
		"OtherAudience":   {"an audience that no volume names", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), Audiences: []string{"bank"}}, 0},
		"TwoAudiences":    {"two audiences at once", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound(), Audiences: []string{"vault", "sts.example.com"}}, 0},
		"OtherAccount":    {"another account", ns, "admin", authenticationv1.TokenRequestSpec{BoundObjectRef: bound()}, 0},
		"OtherNamespace":  {"an account of the same name elsewhere", "kube-system", "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: bound()}, 0},
		"Unbound":         {"a token that outlives the pod", ns, "seller", authenticationv1.TokenRequestSpec{}, 0},
		"BoundToOther":    {"bound to another pod", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "api", UID: "x"}}, 0},
		"BoundToOtherUID": {"bound to an earlier pod of the name", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: "x"}}, 0},
		"BoundToSecret":   {"bound to another kind", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "web", UID: uid}}, 0},
		"BoundToNode":     {"bound to the node", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID("cell-" + cell)}}, 0},
		"NoUID":           {"bound to a name only", ns, "seller", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web"}}, 0},
	}
	for name, tc := range cases {
		for _, protobuf := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/Protobuf=%t", name, protobuf), func(t *testing.T) {
				h := newHarness(t)
				fillUpstream(h)
				for driver, audience := range map[string]string{"secrets.example.com": "sts.example.com", "disk.example.com": "disk", "third.example.com": "unused"} {
					create(t, h, &storagev1.CSIDriver{
						ObjectMeta: metav1.ObjectMeta{Name: driver},
						Spec:       storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: audience}}},
					})
				}
				h.State.Bind(cell, webPod())
				_, err := h.client(t, protobuf).CoreV1().ServiceAccounts(tc.namespace).CreateToken(t.Context(), tc.account, &authenticationv1.TokenRequest{Spec: tc.spec}, metav1.CreateOptions{})
				sent := ""
				for _, r := range h.Upstream.Requests() {
					if r.Method == "POST" {
						sent += r.Path + " " + r.Body
					}
				}
				if tc.want == 0 {
					if !apierrors.IsForbidden(err) || sent != "" {
						t.Errorf("%s: %v, sent %q; want forbidden and nothing", tc.reason, err, sent)
					}
					return
				}
				if err != nil {
					t.Fatalf("%s: %v", tc.reason, err)
				}
				audiences, _ := json.Marshal(tc.spec.Audiences)
				want := fmt.Sprintf(`/api/v1/namespaces/shop/serviceaccounts/seller/token {"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"audiences":%s,"expirationSeconds":%d,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"web","uid":"%s"}},"status":{"token":"","expirationTimestamp":null}}`, audiences, tc.want, uid)
				if diff := cmp.Diff(want, sent); diff != "" {
					t.Errorf("%s: sent: -want +got:\n%s", tc.reason, diff)
				}
			})
		}
	}
}

// create makes an object that the shared caches then see.
func create(t *testing.T, h *harness, driver *storagev1.CSIDriver) {
	t.Helper()
	if _, err := h.Shared.StorageV1().CSIDrivers().Create(t.Context(), driver, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client := h.client(t, false).StorageV1().CSIDrivers()
	eventually(t, "the driver is cached", func() bool {
		list, err := client.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + driver.Name})
		return err == nil && len(list.Items) == 1
	})
}

// TestTokenBodies checks that what is not understood is not passed on.
func TestTokenBodies(t *testing.T) {
	const path = "/api/v1/namespaces/shop/serviceaccounts/seller/token"
	const ref = `"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"web","uid":"11111111-2222-3333-4444-555555555555"}`
	for name, tc := range map[string]struct {
		mediaType, body string
		code            int
		headers         []string
	}{
		"Plain":        {"application/json", `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{` + ref + `}}`, 201, nil},
		"NoKind":       {"application/json", `{"spec":{` + ref + `}}`, 201, nil},
		"Unknown":      {"application/json", `{"spec":{` + ref + `,"admin":true},"metadata":{"name":"admin","namespace":"kube-system"}}`, 201, nil},
		"Twice":        {"application/json", `{"spec":{"audiences":["bank"],` + ref + `},"spec":{` + ref + `}}`, 403, nil},
		"OtherCase":    {"application/json", `{"Spec":{` + ref + `}}`, 403, nil},
		"OtherKind":    {"application/json", `{"kind":"Secret","apiVersion":"v1","spec":{` + ref + `}}`, 400, nil},
		"OtherVersion": {"application/json", `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1beta1","spec":{` + ref + `}}`, 400, nil},
		"YAML":         {"application/yaml", `spec: {}`, 415, nil},
		"CBOR":         {"application/cbor", "\xa0", 415, nil},
		"NoMediaType":  {"", `{"spec":{` + ref + `}}`, 415, nil},
		"Empty":        {"application/json", ` `, 400, nil},
		"Array":        {"application/json", `[]`, 400, nil},
		"Trailing":     {"application/json", `{"spec":{` + ref + `}} {"spec":{}}`, 400, nil},
		"Compressed":   {"application/json", `{"spec":{` + ref + `}}`, 415, []string{"Content-Encoding", "gzip"}},
		"Proto":        {"application/vnd.kubernetes.protobuf", "k8s\x00garbage", 400, nil},
		"ProtoNoMagic": {"application/vnd.kubernetes.protobuf", `{"spec":{}}`, 400, nil},
		"JSONAsProto":  {"application/json", "k8s\x00garbage", 400, nil},
		"DryRun":       {"application/json", `{"spec":{` + ref + `}}`, 403, nil},
		"TableAnswer":  {"application/json", `{"spec":{` + ref + `}}`, 406, []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"}},
		"ProtoAnswer":  {"application/json", `{"spec":{` + ref + `}}`, 406, []string{"Accept", "application/vnd.kubernetes.protobuf"}},
		"EitherAnswer": {"application/json", `{"spec":{` + ref + `}}`, 201, []string{"Accept", "application/vnd.kubernetes.protobuf;q=1, application/json;q=0.9"}},
	} {
		h := newHarness(t)
		h.State.Bind(cell, webPod())
		target := path
		if name == "DryRun" {
			target += "?dryRun=All"
		}
		code, body := h.do(t, "POST", target, tc.body, append([]string{"Content-Type", tc.mediaType}, tc.headers...)...)
		if code != tc.code {
			t.Errorf("%s: %d %s, want %d", name, code, body, tc.code)
		}
		sent := 0
		for _, r := range h.Upstream.Requests() {
			if r.Method == "GET" {
				continue // looking for the drivers of the pod's volumes
			}
			sent++
			var got authenticationv1.TokenRequest
			if err := json.Unmarshal([]byte(r.Body), &got); err != nil || got.Name != "" || len(got.Spec.Audiences) > 0 {
				t.Errorf("%s: sent %s", name, r.Body)
			}
		}
		if (sent == 1) != (tc.code == 201) {
			t.Errorf("%s: %d requests at the API server", name, sent)
		}
	}
}
