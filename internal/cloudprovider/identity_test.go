package cloudprovider

import (
	"strings"
	"testing"
)

func TestControllerID(t *testing.T) {
	if got, want := ControllerID("prod", "kip", "kip-provider-0"), "prod/kip/kip-provider-0"; got != want {
		t.Errorf("short names are kept readable: got %q, want %q", got, want)
	}
	long := strings.Repeat("a-long-cluster-name.", 20)
	a, b := ControllerID(long, "kip", "kip-provider-0"), ControllerID(long, "kip", "kip-provider-1")
	if len(a) > maxControllerID {
		t.Errorf("ID has %d characters, at most %d fit", len(a), maxControllerID)
	}
	if a == b {
		t.Errorf("two controllers share the ID %q", a)
	}
	if a != ControllerID(long, "kip", "kip-provider-0") {
		t.Error("the ID must be the same every time")
	}
}
