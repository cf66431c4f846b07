package kip

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
)

// The steps of a rotation follow one another, and at each of them a Kip that was
// started before it and one that was started after it trust each other's.
func TestRotation(t *testing.T) {
	set := fake.NewClientset()
	first, err := authority(t.Context(), set, "kip")
	if err != nil {
		t.Fatal(err)
	}
	old := first.Signer().ID()
	take := func(name string) error {
		t.Helper()
		i := slices.IndexFunc(rotations, func(r rotation) bool { return r.name == name })
		return rotations[i].take(t.Context(), set, "kip")
	}
	ids := func() []string {
		t.Helper()
		now, err := authority(t.Context(), set, "kip")
		if err != nil {
			t.Fatal(err)
		}
		return now.IDs()
	}
	refused := func(reason string, names ...string) {
		t.Helper()
		before := ids()
		for _, name := range names {
			if err := take(name); err == nil || !slices.Equal(before, ids()) {
				t.Errorf("%s: %s: %v; the authorities were %v, are %v", reason, name, err, before, ids())
			}
		}
	}
	step := func(name string) []string {
		t.Helper()
		if err := take(name); err != nil {
			t.Fatal(err)
		}
		return ids()
	}

	refused("nothing was introduced", "activate", "retire")
	introduced := step("introduce")
	if len(introduced) != 2 || introduced[0] != old {
		t.Fatalf("introduced: %v, want %s to sign and another one", introduced, old)
	}
	next := introduced[1]
	refused("the new one does not sign yet", "introduce", "retire")
	if got := step("activate"); !slices.Equal(got, []string{next, old}) {
		t.Fatalf("activated: %v, want %s to sign, and %s", got, next, old)
	}
	refused("the old one is trusted still", "introduce", "activate")
	var out strings.Builder
	if err := showAuthorities(t.Context(), set, "kip", &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{next + "  signs ", old + "  signed "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it is shown as\n%s\nwithout %q", out.String(), want)
		}
	}
	if got := step("retire"); !slices.Equal(got, []string{next}) {
		t.Fatalf("retired: %v, want %s", got, next)
	}
}
