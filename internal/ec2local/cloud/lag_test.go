package cloud

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
)

// TestReadsLag follows what reads show of an instance through its life.
func TestReadsLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t, machinetest.New())
		cfg.Delays = Delays{Boot: time.Second, Terminate: time.Second, Retention: time.Hour}
		cfg.Lag = Lag{Appear: 4 * time.Second, Stale: 3 * time.Second}
		c := open(t, cfg)
		defer run(c)()
		began := time.Now()
		id := launch(t, c, small("token"))[0].ID
		remembered := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.versions[id])
		}
		shows := func(at time.Duration, want State) {
			t.Helper()
			sleep(time.Until(began.Add(at)))
			got := State("none")
			for _, i := range c.Instances() {
				got = i.State
			}
			if got != want {
				t.Errorf("after %s reads show %s, want %s", at, got, want)
			}
		}
		shows(3999*time.Millisecond, "none")
		shows(4*time.Second, Running) // since 1 s: both it and its being pending are past
		if _, err := c.Terminate([]string{id}, false); err != nil {
			t.Fatal(err)
		}
		shows(6999*time.Millisecond, Running)
		shows(7*time.Second, ShuttingDown)
		shows(7999*time.Millisecond, ShuttingDown)
		shows(8*time.Second, Terminated)
		if n := remembered(); n > 3 {
			t.Errorf("%d versions are remembered", n)
		}
		shows(time.Hour+6*time.Second, "none")
		if n := remembered(); n != 0 {
			t.Errorf("%d versions of a forgotten instance are remembered", n)
		}
	})
}
