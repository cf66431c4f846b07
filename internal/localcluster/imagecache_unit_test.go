package localcluster

import (
	"slices"
	"testing"

	"github.com/elotl/kip/v2/internal/config"
)

// What the cloud shows cells is where Kip tells them to look, and where the
// controller does not.
func TestImageCacheEndpoint(t *testing.T) {
	for name, on := range map[string]bool{"On": true, "Off": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, err := Open(Config{Name: "kip", Dir: dir, Root: dir, ImageCache: on})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.writeProviderConfig("vpc-1", c.ec2URL()); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(c.path("provider.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			if (cfg.Cells.ImageCache != nil) != on {
				t.Fatalf("provider.yaml says %+v of the image cache", cfg.Cells.ImageCache)
			}
			if !on {
				return
			}
			if share := "--share=" + cfg.Cells.ImageCache.Endpoint + "=" + c.shareDir(); !slices.Contains(c.ec2().Args, share) {
				t.Errorf("ec2local is started with %q, without %s", c.ec2().Args, share)
			}
			if share := "--share=" + c.shareDir(); !slices.Contains(c.imageCache().Args, share) {
				t.Errorf("the controller is started with %q, without %s", c.imageCache().Args, share)
			}
		})
	}
}

func TestImageCacheIsPossible(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		config   Config
		possible bool
	}{
		"Containers": {"they see a directory of this machine", Config{ImageCache: true}, true},
		"Process":    {"however Kip runs", Config{ImageCache: true, Kip: KipProcess, Cells: CellsContainer}, true},
		"NoKip":      {"nobody would tell cells", Config{ImageCache: true, Kip: KipNone}, false},
		"Hollow":     {"they mount nothing", Config{ImageCache: true, Kip: KipProcess, Cells: CellsHollow}, false},
		"Off":        {"what is not asked for is no mistake", Config{Cells: CellsVM}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Cluster{Config: tc.config}
			if err := c.checkImageCache(); (err == nil) != tc.possible {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}
