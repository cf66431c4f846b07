package localcluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	a := program(t, "a")
	first, err := imageName(map[string]string{"x": a, "y": a})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := imageName(map[string]string{"y": a, "x": a}); err != nil || again != first {
		t.Errorf("%s, %v", again, err)
	}
	if err := os.WriteFile(a, []byte("ab"), 0o600); err != nil {
		t.Fatal(err)
	}
	if other, err := imageName(map[string]string{"x": a, "y": a}); err != nil || other == first {
		t.Errorf("a program that was built anew makes the same image: %v", err)
	}
	if _, err := imageName(map[string]string{"x": a + ".none"}); err == nil || !strings.Contains(err.Error(), "make tools build") {
		t.Errorf("%v", err)
	}
}
