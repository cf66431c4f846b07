package localcluster

import (
	"slices"
	"strings"
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

// Virtual machines are told of the server, which exports what the controller
// fills, and no directory.
func TestImageCacheByNFS(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(Config{Name: "kip", Dir: dir, Root: dir, ImageCache: true, Cells: CellsVM})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if want := c.settings.host().String() + ":/"; c.cacheEndpoint() != want {
		t.Errorf("the endpoint is %q, want %q", c.cacheEndpoint(), want)
	}
	if args := c.ec2().Args; slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--share") }) {
		t.Errorf("ec2local is started with %q", args)
	}
	var config strings.Builder
	if err := ganeshaConfig.Execute(&config, c.ganeshaSettings()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Bind_addr = " + c.settings.host().String() + ";", "Path = " + c.shareDir() + ";", "Access_Type = RO;"} {
		if !strings.Contains(config.String(), want) {
			t.Errorf("the server's configuration lacks %q:\n%s", want, config.String())
		}
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
		"Computers":  {"they mount it", Config{ImageCache: true, Cells: CellsVM}, true},
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
