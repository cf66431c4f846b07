package localcluster

import (
	"os"
	"path/filepath"
	"testing"
)

// What was unpacked goes, whatever came of it.
func TestLoadCleansUp(t *testing.T) {
	c := &Cluster{Config: Config{Dir: t.TempDir()}}
	broken := filepath.Join(t.TempDir(), "broken.tar")
	if err := os.WriteFile(broken, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Load(t.Context(), broken); err == nil {
		t.Error("loaded")
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
