//go:debug randseednop=0
package simulation

import (
	"context"
	"fmt"
	globalrand "math/rand"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/virtual-kubelet/virtual-kubelet/trace"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/podlogs"
)

const (
	// calmFor is how long after the last fault everything must have come to rest.
	calmFor = 15 * time.Minute
	// restFor is how long it must then stay so.
	restFor = 2 * time.Minute
)

// result is what became of a seed.
type result struct {
	violations []string
	hash       uint64
	steps      int
	lines      []string
}

// simulate runs one seed.
func simulate(t *testing.T, seed uint64, keep, print bool) (r result) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		// Kubernetes' libraries spread their retries by the global source.
		globalrand.Seed(int64(seed)) //nolint:staticcheck // there is no other way to it
		logs, err := podlogs.NewStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, seed, logs)
		w.trace.keep, w.trace.print = keep, print
		w.plan = w.newPlan()
		w.tell("seed %d: %+v", seed, w.plan)
		w.start()
		w.users.begin()
		w.every(time.Second, "Kip is looked after", w.keepAlive)
		w.every(tickEvery, "cells go on", w.tickMachines)
		w.schedule()
		w.run(w.began.Add(w.plan.faultsFor))
		w.calmDown()
		w.rest()
		w.stop()
		r = result{w.check.violations, w.trace.hash.Sum64(), w.steps, w.trace.lines}
	})
	return r
}

// rest lets everything come to rest.
func (w *world) rest() {
	end := time.Now().Add(calmFor)
	since := time.Now()
	for time.Since(since) < restFor {
		if !time.Now().Before(end) {
			for _, problem := range w.check.unrest() {
				w.check.violated("%s", problem)
			}
			return
		}
		w.run(time.Now().Add(10 * time.Second))
		if len(w.check.unrest()) > 0 {
			since = time.Now()
		}
	}
}

// stop ends everything, as the bubble wants it.
func (w *world) stop() {
	for _, m := range w.machines {
		m.cut()
	}
	for _, k := range w.kips {
		if !k.isDead() {
			close(k.gone)
			k.cancel()
		}
	}
	for _, k := range w.kips {
		k.ended.Wait()
	}
}

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard())
	ctrl.SetLogger(logr.Discard())
	trace.T = namingTracer{trace.T}
	m.Run()
}

func number(name string, otherwise int) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return otherwise
	}
	return n
}

// TestSimulation runs many seeds, or with KIP_SIMULATION_SEED one, and prints
// what happens. With KIP_SIMULATION_FIRST the first that finds something is the
// last.
func TestSimulation(t *testing.T) {
	if os.Getenv("KIP_SIMULATION_SEED") != "" {
		for _, v := range simulate(t, uint64(number("KIP_SIMULATION_SEED", 0)), false, true).violations {
			t.Error(v)
		}
		return
	}
	base, seeds := number("KIP_SIMULATION_BASE", 1), number("KIP_SIMULATION_SEEDS", someSeeds)
	began, steps, failed := time.Now(), 0, 0
	for n := 1; n <= seeds; n++ {
		seed := uint64(base + n - 1)
		r := simulate(t, seed, false, false)
		steps += r.steps
		if len(r.violations) > 0 {
			failed++
			t.Errorf("seed %d: %s (and %d more)\n\tmake simulate SEED=%d", seed, r.violations[0], len(r.violations)-1, seed)
		}
		if failed > 0 && os.Getenv("KIP_SIMULATION_FIRST") != "" {
			return
		}
		if n%500 == 0 || n == seeds {
			fmt.Printf("%d of %d seeds, %d steps, %d seeds with violations, %s\n", n, seeds, steps, failed, time.Since(began).Round(time.Second))
		}
	}
}

// TestReplay: the same seed is the same history.
func TestReplay(t *testing.T) {
	for n := range max(someSeeds/10, 2) {
		seed := uint64(number("KIP_SIMULATION_BASE", 1) + n)
		one, two := simulate(t, seed, true, false), simulate(t, seed, true, false)
		if one.hash == two.hash {
			continue
		}
		for i := range one.lines {
			if i >= len(two.lines) || one.lines[i] != two.lines[i] {
				t.Errorf("seed %d: step %d of %d is %q, and then %q", seed, i, len(one.lines), one.lines[i], append(two.lines, "none")[min(i, len(two.lines))])
				break
			}
		}
	}
}

// noPodMetrics: nobody reports.
type noPodMetrics struct{}

func (noPodMetrics) Report(string, *corev1.Pod, []byte) error { return nil }

// noRegistries: nothing is pulled.
type noRegistries struct{}

func (noRegistries) Login(context.Context, *corev1.Pod, string) (*gateway.RegistryLogin, error) {
	return nil, nil
}

// TestWallClock: what passes on it does so whatever it shows.
func TestWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &wallClock{world: &world{began: time.Now()}}
		first := c.Now()
		if !first.Equal(time.Now()) {
			t.Fatalf("it shows %s", first)
		}
		time.Sleep(time.Minute)
		c.ahead.Store(3600)
		if got := c.Since(first); got != time.Minute {
			t.Errorf("a minute took %s", got)
		}
		if got := c.Now().Round(0).Sub(first.Round(0)); got != time.Hour+time.Minute {
			t.Errorf("the wall moved by %s", got)
		}
	})
}
