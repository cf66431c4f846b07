package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// A machine whose processors were less busy than this, over a second,
	// measures Kip and not its neighbours.
	calmBelow = 0.35
	// calmPatience bounds the wait for that.
	calmPatience = 15 * time.Second
)

// awaitCalm waits until nothing else keeps the processors busy. After a while
// it gives up and returns false.
func awaitCalm(ctx context.Context) (calm bool, err error) {
	deadline := time.Now().Add(calmPatience)
	for time.Now().Before(deadline) {
		before, err := readProcessors()
		if err != nil {
			return false, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return false, ctx.Err()
		}
		after, err := readProcessors()
		if err != nil {
			return false, err
		}
		if after.busy-before.busy < calmBelow*(after.all-before.all) {
			return true, nil
		}
	}
	return false, nil
}

// processors is the time that all of them spent since boot, in ticks.
type processors struct{ busy, all float64 }

func readProcessors() (processors, error) {
	var p processors
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return p, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	// cpu user nice system idle iowait irq softirq steal
	for i, field := range strings.Fields(line)[1:min(9, len(strings.Fields(line)))] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return p, fmt.Errorf("/proc/stat: %w", err)
		}
		p.all += ticks
		if i != 3 && i != 4 {
			p.busy += ticks
		}
	}
	return p, nil
}
