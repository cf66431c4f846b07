package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"time"
)

// Before a build has a speed of its own, it is taken to have compiled for
// priorTime at priorRate bytes of Go per second, as measured on 2 cores.
const (
	priorRate = 200_000
	priorTime = 20 * time.Second
)

// A progress shows how far a build of several programs is. On a terminal it is
// one line that changes; in a log it is a line every now and then.
type progress struct {
	out      io.Writer
	terminal bool
	every    time.Duration

	programs []target
	plan     []work // of each program
	packages int    // how many there were to compile
	weight   int64  // of everything: packages and links

	mu        sync.Mutex
	left      work          // packages not compiled yet
	compiling time.Duration // time spent in finished programs
	began     time.Time     // when the current program did
	current   int           // index in programs and plan
	stop      chan struct{}
	stopped   chan struct{}
}

// newProgress returns a progress for building programs in their order.
func newProgress(out io.Writer, programs []target, plan []work) *progress {
	p := &progress{out: out, every: 15 * time.Second, programs: programs, plan: plan, left: work{}, current: -1}
	for _, stale := range plan {
		maps.Copy(p.left, stale)
	}
	p.packages = len(p.left)
	p.weight = p.remaining()
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if p.terminal {
		p.every = 500 * time.Millisecond
	}
	return p
}

// remaining returns the weight of what is still to do; mu is held.
func (p *progress) remaining() int64 {
	var sum int64
	for _, weight := range p.left {
		sum += weight
	}
	for _, t := range p.programs[max(p.current, 0):] {
		sum += linkWeight * int64(len(t.binaries()))
	}
	return sum
}

// begin starts to show the next program as what is built now, until end.
func (p *progress) begin() {
	p.mu.Lock()
	p.current++
	p.began = time.Now()
	p.mu.Unlock()
	p.stop, p.stopped = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.stopped)
		ticker := time.NewTicker(p.every)
		defer ticker.Stop()
		for {
			p.show()
			select {
			case <-ticker.C:
			case <-p.stop:
				return
			}
		}
	}()
}

// end stops showing the current program, and the line with it.
func (p *progress) end() {
	close(p.stop)
	<-p.stopped
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.compiling += time.Since(p.began)
	for key := range p.plan[p.current] {
		delete(p.left, key)
	}
}

// compiled notes a line of go build -v; false if it names no package of the plan.
func (p *progress) compiled(line string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := p.programs[p.current].key(line)
	if _, planned := p.left[key]; !planned {
		return false
	}
	delete(p.left, key)
	return true
}

func (p *progress) show() {
	p.mu.Lock()
	t := p.programs[p.current]
	linking := true
	for key := range p.plan[p.current] {
		if _, left := p.left[key]; left {
			linking = false
			break
		}
	}
	doing := "compiling"
	if linking {
		doing = "linking"
	}
	elapsed, left := p.compiling+time.Since(p.began), p.remaining()
	line := fmt.Sprintf("[%d/%d] %s %s %s; %d of %d packages compiled, %s so far, about %s left",
		p.current+1, len(p.programs), doing, t.name, t.version, p.packages-len(p.left), p.packages,
		roughly(elapsed), roughly(estimate(left, p.weight-left, elapsed)))
	p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K"+line)
	} else {
		fmt.Fprintln(p.out, line)
	}
}

// estimate returns how long a weight of left will take when done took elapsed.
func estimate(left, done int64, elapsed time.Duration) time.Duration {
	rate := (float64(done) + priorRate*priorTime.Seconds()) / (elapsed + priorTime).Seconds()
	return time.Duration(float64(left) / rate * float64(time.Second))
}

// roughly formats d as a person would say it.
func roughly(d time.Duration) string {
	d = d.Round(time.Second)
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}
