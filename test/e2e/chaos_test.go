package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/localcluster"
	"github.com/elotl/kip/v2/test/runs"
)

const (
	// chaosFor is how long things go wrong, unless KIP_CHAOS_FOR says otherwise.
	chaosFor = 3 * time.Minute
	// restWithin is how long everything may take to come to rest: the boot timeout,
	// and what a Job's controller waits after several failures in a row.
	restWithin = 10 * time.Minute
	// restFor is how long it must then stay so.
	restFor = 10 * time.Second
	// lookEvery is how often the cluster and the account are looked at meanwhile.
	lookEvery = time.Second
)

// chaos is one time of trouble: what is struck, and what is seen of it.
type chaos struct {
	*space
	random *rand.Rand
	began  time.Time
	// reports is where programs in pods report their runs; log has what they said.
	reports string
	log     runs.Log
	// tasks are how many Jobs and pods that end were made, of each kind.
	tasks map[string]int

	// calm: nothing goes wrong any more, and no more tasks are made.
	calm atomic.Bool

	// restarts are components that are down, and agents that hang.
	restarts sync.WaitGroup

	mu sync.Mutex
	// down are the components that were killed and are not back.
	down map[string]bool
	// seen is what was found out by looking again and again.
	seen history
	// strikes are by instance; deleted are pods, by this test.
	strikes map[string][]strike
	deleted map[types.UID]bool
	// violations of what must always hold.
	violations []string
}

// strike is what hit an instance.
type strike struct {
	at   time.Time
	harm harm
}

// harm is what a strike may do to a program that runs in the instance.
type harm int

const (
	// harmless: nothing, it must not notice.
	harmless harm = iota
	// harmsStart: if its container was just being started, that may count as failed.
	harmsStart
	// lethal: it ends with its instance.
	lethal
)

// Parts of Kip, of the control plane and of cells are killed, and whole cells,
// while a Deployment, a StatefulSet, Jobs and bare pods run; what is a platform's
// to start again is started again. Then nothing goes wrong any more, and all that
// the design promises must hold: of the cluster and the account, and of what the
// programs in the pods say of their own runs.
func TestChaos(t *testing.T) {
	c := newChaos(t)
	c.createWorkload()
	c.within(2*patience, "everything runs before anything goes wrong", func(ctx context.Context) error {
		return errors.Join(c.lookAround(ctx), c.unrest(ctx))
	})
	kipLog, cloudLog := logEnd(t, localcluster.Kip), logEnd(t, localcluster.EC2Local)

	lasts := chaosFor
	if text := os.Getenv("KIP_CHAOS_FOR"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	c.began = time.Now()
	stopLooking := c.keepLooking()
	c.rage(lasts)
	c.calm.Store(true)
	c.tell("nothing goes wrong any more")
	rest := c.rest()
	stopLooking()
	c.restarts.Wait()
	c.tell("%.0f s later everything is in its place; made were %v", rest.Seconds(), c.tasks)

	c.judge()
	for component, from := range map[string]int64{localcluster.Kip: kipLog, localcluster.EC2Local: cloudLog} {
		c.judgeLog(component, from)
	}
	if len(c.violations) > 0 {
		c.describe(t.Context())
	}
	c.clear()
	c.report()
}

// newChaos prepares everything that must outlast the cells.
func newChaos(t *testing.T) *chaos {
	s := newSpace(t)
	seed := uint64(time.Now().UnixNano()) % 1e9
	if text := os.Getenv("KIP_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	c := &chaos{
		space: s, random: rand.New(rand.NewPCG(seed, 0)), began: time.Now(), tasks: map[string]int{},
		down: map[string]bool{}, strikes: map[string][]strike{}, deleted: map[types.UID]bool{}, seen: newHistory(),
	}
	c.tell("seed %d", seed)

	apiserver, err := url.Parse(shared.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(apiserver.Hostname(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	c.reports = "http://" + listener.Addr().String()
	server := &http.Server{Handler: &c.log, ReadHeaderTimeout: 10 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		c.restarts.Wait() // for other tests the cluster is whole
		_ = server.Close()
		serving.Wait()
	})
	return c
}

// tell adds to the sequence of what happened.
func (c *chaos) tell(format string, args ...any) {
	c.Helper()
	c.Logf("%7.1f  %s", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// violated notes what must not be, once.
func (c *chaos) violated(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.violations, what) {
		c.violations = append(c.violations, what)
		c.tell("VIOLATION: %s", what)
	}
}

// report fails the test for each violation, and keeps what may explain them.
func (c *chaos) report() {
	for _, v := range c.violations {
		c.Error(v)
	}
	if len(c.violations) == 0 {
		return
	}
	dir := c.ArtifactDir() // kept by go test -artifacts
	c.Logf("logs, consoles and objects are in %s", dir)
	for name, pattern := range map[string]string{"logs": "logs/*", "consoles": "ec2/machines/*/console"} {
		files, err := filepath.Glob(filepath.Join(shared.Dir, pattern))
		if err != nil {
			c.Fatal(err)
		}
		for _, f := range files {
			to := filepath.Join(dir, name, filepath.Base(f))
			if name == "consoles" {
				to = filepath.Join(dir, name, filepath.Base(filepath.Dir(f)))
			}
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				c.Fatal(err)
			}
			if out, err := exec.Command("cp", f, to).CombinedOutput(); err != nil {
				c.Logf("%v: %s", err, out)
			}
		}
	}
}

// rage has things go wrong for a while, one after the other and some at once.
func (c *chaos) rage(lasts time.Duration) {
	end := time.Now().Add(lasts)
	for time.Now().Before(end) {
		c.strikeOnce()
		time.Sleep(c.between(time.Second, 8*time.Second))
	}
}

func (c *chaos) between(least, most time.Duration) time.Duration {
	return least + time.Duration(c.random.Int64N(int64(most-least)))
}

// keepLooking looks at everything, and has users make new tasks, until it is
// told to stop.
func (c *chaos) keepLooking() (stop func()) {
	ctx, cancel := context.WithCancel(c.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			c.restartKip()
			one, done := context.WithTimeout(ctx, 10*time.Second)
			// What is away cannot be looked at; the next look sees what this one missed.
			if err := c.lookAround(one); err == nil && !c.calm.Load() {
				c.createTasks(one)
			}
			done()
		}
	})
	stop = func() {
		cancel()
		looking.Wait()
	}
	c.Cleanup(stop)
	return stop
}

// rest waits until everything is in its place, and stays there.
func (c *chaos) rest() time.Duration {
	began := time.Now()
	err := poll(c.Context(), restWithin, func(ctx context.Context) error {
		c.mu.Lock()
		down := slices.Sorted(maps.Keys(c.down))
		c.mu.Unlock()
		if len(down) > 0 {
			return fmt.Errorf("%v are down", down)
		}
		return c.unrest(ctx)
	})
	took := time.Since(began)
	if err == nil {
		time.Sleep(restFor)
		err = poll(c.Context(), patience, c.unrest)
	}
	if err != nil {
		c.violated("it does not come to rest: %v", err)
	}
	components, err := shared.Status(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	for _, s := range components {
		if !s.Running || s.Ready != nil {
			c.violated("%s does not run at the end, and nobody killed it: %v", s.Name, s.Ready)
		}
	}
	return took
}

// logEnd is how long a component's log is.
func logEnd(t *testing.T, component string) int64 {
	t.Helper()
	info, err := os.Stat(shared.LogPath(component))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
