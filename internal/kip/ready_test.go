package kip

import (
	"net/http/httptest"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
)

func TestCachesRead(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		synced bool
	}{
		"Reading": {"a Kip that does not know its pods yet is not counted on", false},
		"Read":    {"from then on it works", true},
	} {
		t.Run(name, func(t *testing.T) {
			check := cachesRead(&informertest.FakeInformers{Synced: &tc.synced})
			if err := check(httptest.NewRequest("GET", "/readyz", nil)); (err == nil) != tc.synced {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}
