package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/localcluster"
)

type scaleOptions struct {
	sizes        []int
	settle, idle time.Duration
	churn        time.Duration
	rate         float64
	load         time.Duration
	fillTimeout  time.Duration
	profiles     string
}

// point is what was measured with so many cells.
type point struct {
	cells int

	// The way there from the size before.
	made          int
	bound, runs   time.Duration // until the last was
	idle          usage
	restart       time.Duration
	afterRestart  usage
	churned       churned
	leases, reads float64 // requests a second
}

// usage is what Kip takes, over a while.
type usage struct {
	cores                    float64
	anonymous, resident      int64 // bytes
	heap, stacks, goroutines float64
	requests                 float64 // of cells, a second
}

// scale measures Kip with ever more cells.
func (b *bench) scale(ctx context.Context, o scaleOptions, d *document) error {
	machine, err := b.environment(ctx)
	if err != nil {
		return err
	}
	lives, stop, err := b.follow(ctx)
	if err != nil {
		return err
	}
	defer stop()
	s := scaling{bench: b, o: o, lives: lives}
	var points []point
	for _, size := range o.sizes {
		p, err := s.measure(ctx, size)
		if err != nil && len(points) == 0 {
			return fmt.Errorf("with %d cells: %w", size, err)
		}
		if err != nil {
			// What was measured took long.
			s.progress("with %d cells: %v; the report ends before", size, err)
			break
		}
		points = append(points, p)
	}
	writeScale(d, machine, o, points)
	return nil
}

// scaling is one run.
type scaling struct {
	*bench
	o     scaleOptions
	lives *lives
	have  int // pods that stay
}

func (s *scaling) measure(ctx context.Context, size int) (p point, err error) {
	p.cells = size
	if err := s.fill(ctx, size, &p); err != nil {
		return p, err
	}
	s.progress("%d cells: idle", size)
	if p.idle, err = s.rest(ctx); err != nil {
		return p, err
	}
	if err := s.profile(ctx, size, "idle"); err != nil {
		return p, err
	}
	s.progress("%d cells: %.2f cores, %d MiB; Kip is killed", size, p.idle.cores, p.idle.resident>>20)
	if p.restart, err = s.restart(ctx, size); err != nil {
		return p, err
	}
	s.progress("%d cells: connected again after %.1f s", size, p.restart.Seconds())
	if p.afterRestart, err = s.rest(ctx); err != nil {
		return p, err
	}
	s.progress("%d cells: %.2f cores, %d MiB after the restart; %s of churn", size, p.afterRestart.cores, p.afterRestart.resident>>20, s.o.churn)
	if p.churned, err = s.churn(ctx); err != nil {
		return p, err
	}
	s.progress("%d cells: %d pods came and went, %.1f a second; %.1f own writes each", size, p.churned.pods, p.churned.rate(), p.churned.requests.writes("Kip"))
	if p.leases, err = s.throughput(ctx, "leases"); err != nil {
		return p, err
	}
	if p.reads, err = s.throughput(ctx, "configmaps"); err != nil {
		return p, err
	}
	s.progress("%d cells: %.0f and %.0f requests a second through the gateway", size, p.leases, p.reads)
	return p, nil
}

// fill makes pods, all at once, until there are so many.
func (s *scaling) fill(ctx context.Context, size int, p *point) error {
	began := time.Now()
	var all []types.UID
	p.made = size - s.have
	s.progress("%d cells: %d pods are made", size, p.made)
	err := inParallel(ctx, p.made, func(i int) error {
		pod, err := s.create(ctx, newPod(fmt.Sprintf("stay-%d", s.have+i), onKip))
		if err != nil {
			return err
		}
		s.lives.mu.Lock()
		defer s.lives.mu.Unlock()
		all = append(all, pod.UID)
		return nil
	})
	if err != nil {
		return err
	}
	s.have = size
	ctx, cancel := context.WithTimeout(ctx, s.o.fillTimeout)
	defer cancel()
	for _, uid := range all {
		l, err := s.lives.await(ctx, uid, func(l life) bool { return !l.runs.IsZero() })
		if err != nil {
			running := 0
			for _, uid := range all {
				if !s.lives.of(uid).runs.IsZero() {
					running++
				}
			}
			return fmt.Errorf("%d of %d pods run: %w", running, len(all), err)
		}
		p.bound, p.runs = max(p.bound, l.bound.Sub(began)), max(p.runs, l.runs.Sub(began))
	}
	s.progress("%d cells: all bound after %.1f s, all run after %.1f s", size, p.bound.Seconds(), p.runs.Seconds())
	return nil
}

// rest measures Kip while nothing happens.
func (s *scaling) rest(ctx context.Context) (usage, error) {
	if err := pause(ctx, s.o.settle); err != nil {
		return usage{}, err
	}
	return s.usage(ctx, func(ctx context.Context) error { return pause(ctx, s.o.idle) })
}

// usage measures Kip while during runs.
func (s *scaling) usage(ctx context.Context, during func(context.Context) error) (u usage, err error) {
	pid, err := s.pid(ctx, localcluster.Kip)
	if err != nil {
		return u, err
	}
	asked, err := s.asked(ctx)
	if err != nil {
		return u, err
	}
	began := time.Now()
	before, err := processorTime(pid)
	if err != nil {
		return u, err
	}
	if err := during(ctx); err != nil {
		return u, err
	}
	after, err := processorTime(pid)
	if err != nil {
		return u, err
	}
	took := time.Since(began).Seconds()
	u.cores = (after - before).Seconds() / took
	memory, err := readProcess(pid)
	if err != nil {
		return u, err
	}
	u.anonymous, u.resident = memory.anonymous<<10, memory.resident<<10
	m, err := s.metrics(ctx)
	if err != nil {
		return u, err
	}
	u.heap, u.stacks, u.goroutines = m.sum("go_memstats_heap_inuse_bytes"), m.sum("go_memstats_stack_inuse_bytes"), m.sum("go_goroutines")
	u.requests = (m.sum("kip_gateway_requests_total") - asked) / took
	return u, nil
}

func (s *scaling) asked(ctx context.Context) (float64, error) {
	m, err := s.metrics(ctx)
	return m.sum("kip_gateway_requests_total"), err
}

// restart kills Kip and starts it again, and returns how long after its start
// it took until it had all cells.
func (s *scaling) restart(ctx context.Context, cells int) (time.Duration, error) {
	if err := s.Kill(localcluster.Kip); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.Start(ctx, localcluster.Kip); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	connected := 0.0
	for {
		// It does not answer at once.
		if m, err := s.metrics(ctx); err == nil {
			if connected = m.sum("kip_cells_connected"); int(connected) >= cells {
				return time.Since(began), nil
			}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, fmt.Errorf("%.0f of %d cells are connected again: %w", connected, cells, err)
		}
	}
}

// throughput is how many requests of one kind a second Kip answers to fifty
// kubelets that do nothing else.
func (s *scaling) throughput(ctx context.Context, of string) (float64, error) {
	if s.o.load <= 0 {
		return 0, nil
	}
	const kubelets = 50
	set := func(ctx context.Context, value string) error {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"ec2local.kip.elotl.co/load":%q}}}`, value)
		return inParallel(ctx, min(kubelets, s.have), func(i int) error {
			_, err := s.kube.CoreV1().Pods(namespace).Patch(ctx, fmt.Sprintf("stay-%d", i), types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		})
	}
	if err := set(ctx, of); err != nil {
		return 0, fmt.Errorf("having kubelets ask for %s: %w", of, err)
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return 0, err
	}
	u, err := s.usage(ctx, func(ctx context.Context) error { return pause(ctx, s.o.load) })
	if err != nil {
		return 0, err
	}
	if err := set(ctx, ""); err != nil {
		return 0, fmt.Errorf("having kubelets be quiet: %w", err)
	}
	return u.requests, pause(ctx, time.Second)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func writeScale(d *document, machine environment, o scaleOptions, points []point) {
	d.printf("# Kip with thousands of cells\n\n")
	d.printf("Written by `make bench-scale`. Cells are hollow ([go doc](../../internal/ec2local/hollowcell/doc.go)): real enrolment, tunnel\n" +
		"and requests, as many as kubelet, kube-proxy and agent make, and no containers. API server, etcd, scheduler, controllers,\n" +
		"ec2local with all cells, and this program share the processors with Kip: a size at which they are busy makes Kip wait, so\n" +
		"times are of this machine, while processor time, memory and requests are Kip's own.\n\n")
	machine.write(d)
	column := func(title string, value func(point) string) []string {
		row := []string{title}
		for _, p := range points {
			row = append(row, value(p))
		}
		return row
	}
	head := []string{"cells"}
	for _, p := range points {
		head = append(head, fmt.Sprint(p.cells))
	}
	mib := func(bytes float64) string { return fmt.Sprintf("%.0f", bytes/(1<<20)) }
	seconds := func(t time.Duration) string { return fmt.Sprintf("%.1f", t.Seconds()) }
	d.printf("## The curve\n\n")
	d.table(head, [][]string{
		column("pods made at once on the way there", func(p point) string { return fmt.Sprint(p.made) }),
		column("  until all are bound, s", func(p point) string { return seconds(p.bound) }),
		column("  until all run, s", func(p point) string { return seconds(p.runs) }),
		column("idle: processors", func(p point) string { return fmt.Sprintf("%.2f", p.idle.cores) }),
		column("  requests of cells, per s", func(p point) string { return fmt.Sprintf("%.0f", p.idle.requests) }),
		column("  resident memory, MiB", func(p point) string { return mib(float64(p.idle.resident)) }),
		column("  of it anonymous, MiB", func(p point) string { return mib(float64(p.idle.anonymous)) }),
		column("  Go's heap in use, MiB", func(p point) string { return mib(p.idle.heap) }),
		column("  stacks, MiB", func(p point) string { return mib(p.idle.stacks) }),
		column("  goroutines", func(p point) string { return fmt.Sprintf("%.0f", p.idle.goroutines) }),
		column("Kip killed: start until all cells are connected, s", func(p point) string { return seconds(p.restart) }),
		column("  then idle: processors", func(p point) string { return fmt.Sprintf("%.2f", p.afterRestart.cores) }),
		column("  resident memory, MiB", func(p point) string { return mib(float64(p.afterRestart.resident)) }),
		column("churn: pods per s", func(p point) string { return fmt.Sprintf("%.1f", p.churned.rate()) }),
		column("  pods that did not come and go within "+lifeTimeout.String(), func(p point) string { return fmt.Sprint(p.churned.stuck) }),
		column("  made → runs, p50, ms", func(p point) string { return milliseconds(percentile(p.churned.starts, 50)) }),
		column("  made → runs, p99, ms", func(p point) string { return milliseconds(percentile(p.churned.starts, 99)) }),
		column("  processors", func(p point) string { return fmt.Sprintf("%.2f", p.churned.usage.cores) }),
		column("  resident memory at its beginning, MiB", func(p point) string { return mib(float64(p.churned.first)) }),
		column("  and at its end, MiB", func(p point) string { return mib(float64(p.churned.last)) }),
		column("gateway: answered by Kip, requests per s", func(p point) string { return fmt.Sprintf("%.0f", p.leases) }),
		column("  asked of the API server, requests per s", func(p point) string { return fmt.Sprintf("%.0f", p.reads) }),
	})
	last := points[len(points)-1]
	d.printf("Churn: %g pods a second for %s, each deleted as soon as it runs. Idle: %s, %s after the last change.\n\n", o.rate, o.churn, o.idle, o.settle)
	d.printf("## Requests to the API server in a pod's life\n\nWhile %d cells stayed, by what %d pods came and went. "+
		"\"Cells\" are requests that Kip passed on for\nkubelets, as the virtual node.\n\n", last.cells, last.churned.pods)
	var rows [][]string
	for _, who := range []string{"Kip", "cells"} {
		for _, what := range slices.Sorted(maps.Keys(last.churned.requests[who])) {
			rows = append(rows, []string{who, what, fmt.Sprintf("%.2f", last.churned.requests[who][what])})
		}
	}
	d.table([]string{"who", "request", "per pod"}, rows)
	d.printf("## Aims\n\n")
	var aims [][]string
	aim := func(name, want, got string, met bool) {
		verdict := "missed"
		if met {
			verdict = "met"
		}
		aims = append(aims, []string{name, want, got, verdict})
	}
	at := fmt.Sprintf(", %d cells", last.cells)
	aim("resident memory, idle, MiB"+at, "≤ 400", mib(float64(last.idle.resident)), last.idle.resident <= 400<<20)
	aim("processors, idle"+at, "≤ 0.5", fmt.Sprintf("%.2f", last.idle.cores), last.idle.cores <= 0.5)
	aim("restart until all are connected, s"+at, "≤ 15", seconds(last.restart), last.restart <= 15*time.Second)
	writes := last.churned.requests.writes("Kip")
	aim("Kip's writes in a pod's life", "≤ 6", fmt.Sprintf("%.1f", writes), writes <= 6)
	aim("churn, pods per s"+at, fmt.Sprintf("%g", o.rate), fmt.Sprintf("%.1f", last.churned.rate()), last.churned.rate() > 0.95*o.rate)
	first := points[0]
	growth := (float64(last.idle.resident) / float64(first.idle.resident)) / (float64(last.cells) / float64(first.cells))
	aim("memory grows no faster than cells", "≤ 1", fmt.Sprintf("%.2f", growth), growth <= 1)
	d.table([]string{"", "aim", "measured", ""}, aims)
}
