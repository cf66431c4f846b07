package instancetype

import (
	"sync"
	"testing"
	"time"
)

func TestUnavailable(t *testing.T) {
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	key := Key{"t3.nano", "us-west-2a", "spot"}
	u := &Unavailable{}
	u.Mark(key, start)
	u.Mark(key, start.Add(-time.Minute)) // news that came late shortens nothing

	if until, ok := u.Until(key, start.Add(UnavailableFor-1)); !ok || !until.Equal(start.Add(UnavailableFor)) {
		t.Errorf("just before the end: %v, %v", until, ok)
	}
	if _, ok := u.Until(key, start.Add(UnavailableFor)); ok {
		t.Error("still avoided after its time")
	}
	for _, other := range []Key{
		{"t3.nano", "us-west-2a", "on-demand"}, {"t3.nano", "us-west-2b", "spot"}, {"t3.micro", "us-west-2a", "spot"},
	} {
		if _, ok := u.Until(other, start); ok {
			t.Errorf("%v is avoided for what happened to %v", other, key)
		}
	}
	u.Mark(Key{"c5.large", "us-west-2a", "spot"}, start.Add(time.Hour))
	if n := len(u.until); n != 1 {
		t.Errorf("%d offerings remembered, one of them for no reason", n)
	}
	var none *Unavailable
	if _, ok := none.Until(key, start); ok {
		t.Error("nothing is avoided by nil")
	}
}

// TestUnavailableConcurrently is for the race detector.
func TestUnavailableConcurrently(t *testing.T) {
	region := usWest2(t)
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	u := &Unavailable{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				o := region.Offerings(needs("1", "1Gi"), Options{Now: now, Unavailable: u, Limit: 1}).Offerings[0]
				u.Mark(o.Key(), now)
			}
		})
	}
	wg.Wait()
	if n := len(u.snapshot(now)); n < 10 || n > 40 {
		t.Errorf("%d offerings marked", n)
	}
}
