package localcluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageName(t *testing.T) {
	a, root := program(t, "a"), t.TempDir()
	name := func(programs map[string]string) string {
		t.Helper()
		n, err := imageName("p-", programs, root)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := name(map[string]string{"x": a, "y": a})
	if again := name(map[string]string{"y": a, "x": a}); again != first || !strings.HasPrefix(first, "p-") {
		t.Errorf("%s, then %s", first, again)
	}
	if err := os.Chtimes(a, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if touched := name(map[string]string{"x": a, "y": a}); touched != first {
		t.Errorf("a program that was only touched makes another image: %s, then %s", first, touched)
	}
	if err := os.WriteFile(a, []byte("ab"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := name(map[string]string{"x": a, "y": a})
	if second == first {
		t.Error("a program that was built anew makes the same image")
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{second: true}
	for _, content := range []string{"1", "2"} {
		if err := os.WriteFile(filepath.Join(root, "etc", "conf"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := name(map[string]string{"x": a, "y": a}); seen[n] {
			t.Errorf("another file makes the same image %s", n)
		} else {
			seen[n] = true
		}
	}
	if _, err := imageName("p-", map[string]string{"x": a + ".none"}, root); err == nil || !strings.Contains(err.Error(), "make tools build") {
		t.Errorf("%v", err)
	}
}
