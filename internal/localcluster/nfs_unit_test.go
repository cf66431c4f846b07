package localcluster

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"
)

// TestNFSServer runs the real server with what is written for it: it serves, and
// again after it was killed.
func TestNFSServer(t *testing.T) {
	if _, err := os.Stat(ganesha); err != nil || os.Geteuid() != 0 {
		t.Skip("the NFS server runs as root, after make deps-vm")
	}
	dir := t.TempDir()
	c, err := Open(Config{Name: "kip", Dir: dir, Root: dir, ImageCache: true, Cells: CellsVM})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// All of it is this machine's loopback; the second number keeps two tests apart.
	c.settings.VPC = netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(64 + os.Getpid()%128), 0, 0}), 16)
	if err := c.makeShare(); err != nil {
		t.Fatal(err)
	}
	if err := c.writeGaneshaConfig(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.processes.stop(context.Background(), c.nfsServer()); err != nil {
			t.Error(err)
		}
	}()
	if err := c.startNFSServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := c.Kill(NFSServer); err != nil {
		t.Fatal(err)
	}
	if err := c.startNFSServer(t.Context()); err != nil {
		t.Errorf("after it was killed: %v", err)
	}
	t.Logf("killed and started again in %s", time.Since(began))
	c.ImageCache = false
	if err := c.startNFSServer(t.Context()); err != nil {
		t.Error(err)
	}
	if _, alive, err := c.processes.find(NFSServer); err != nil || alive {
		t.Errorf("without an image cache it lives: %t, %v", alive, err)
	}
}
