package kip

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// startingServer is an API server to which the way is not there at first.
func startingServer(t *testing.T, trouble func(n int32, w http.ResponseWriter) bool) kubernetes.Interface {
	t.Helper()
	secret, err := newAuthority("kip")
	if err != nil {
		t.Fatal(err)
	}
	secret.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	answers := map[string]any{
		"/version": version.Info{GitVersion: "v1.36.3"},
		"/api/v1/namespaces/kip/secrets/" + authoritySecret: secret,
	}
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if trouble(n.Add(1), w) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answers[r.URL.Path]); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

var soon = wait.Backoff{Duration: time.Millisecond}

func TestFirstAnswers(t *testing.T) {
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	cut := func(w http.ResponseWriter) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	for name, tc := range map[string]struct {
		reason string
		// trouble is what becomes of some requests, the first of which is number 1.
		trouble func(http.ResponseWriter)
		of      func(n int32) bool
		refused string
	}{
		"all is well":         {"it starts", nil, nil, ""},
		"no way yet":          {"kube-proxy of a node that boots has not come to the API server's address", cut, func(n int32) bool { return n < 4 }, ""},
		"it starts itself":    {"an API server that is not ready says so", status(http.StatusServiceUnavailable), func(n int32) bool { return n < 4 }, ""},
		"it goes in between":  {"between the two answers", cut, func(n int32) bool { return n == 2 || n == 3 }, ""},
		"it is busy":          {"and says to ask again", status(http.StatusTooManyRequests), func(n int32) bool { return n == 2 }, ""},
		"no right to version": {"waiting would not help", status(http.StatusForbidden), func(n int32) bool { return n == 1 }, "its version"},
		"no right to Secret":  {"nor here", status(http.StatusForbidden), func(n int32) bool { return n == 2 }, "kip-ca"},
		"a wrong token":       {"nor here", status(http.StatusUnauthorized), func(int32) bool { return true }, "its version"},
	} {
		t.Run(name, func(t *testing.T) {
			kube := startingServer(t, func(n int32, w http.ResponseWriter) bool {
				if tc.of == nil || !tc.of(n) {
					return false
				}
				tc.trouble(w)
				return true
			})
			version, ca, err := firstAnswers(t.Context(), kube, "kip", soon, slog.New(slog.DiscardHandler))
			switch {
			case tc.refused != "":
				if err == nil || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("%s: %v", tc.reason, err)
				}
			case err != nil || version != "v1.36.3" || ca == nil:
				t.Errorf("%s: version %q, authority %v, %v", tc.reason, version, ca, err)
			}
		})
	}
}

// TestFirstAnswersUntilTheEnd: Kip that is told to end does not wait on.
func TestFirstAnswersUntilTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	kube := startingServer(t, func(n int32, w http.ResponseWriter) bool {
		if n == 3 {
			cancel()
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	if _, _, err := firstAnswers(ctx, kube, "kip", soon, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it was answered by nobody")
	}
}

// A Secret that holds no authority does not get one by waiting.
func TestFirstAnswersBrokenAuthority(t *testing.T) {
	kube := startingServer(t, func(n int32, w http.ResponseWriter) bool {
		if n == 2 {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}})
		}
		return n == 2
	})
	if _, _, err := firstAnswers(t.Context(), kube, "kip", soon, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an empty Secret is an authority")
	}
}
