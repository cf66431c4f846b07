package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// percentile is the nearest-rank one: a value that was measured. NaN-free: of
// nothing it is zero.
func percentile[T ~int64](values []T, p float64) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// spread is p50, p90 and p99 as cells of a table.
func spread(times []time.Duration) []string {
	if len(times) == 0 {
		return []string{"", "", ""}
	}
	return []string{milliseconds(percentile(times, 50)), milliseconds(percentile(times, 90)), milliseconds(percentile(times, 99))}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprint(d.Round(time.Millisecond).Milliseconds())
}

// between are the times from one step to another, of the samples that have
// both.
func between(samples []sample, from, to step) []time.Duration {
	var times []time.Duration
	for _, s := range samples {
		a, b := s.at[from], s.at[to]
		if !a.IsZero() && !b.IsZero() {
			times = append(times, b.Sub(a))
		}
	}
	return times
}
