package aws

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// requests records terminations, each of which takes a second.
type requests struct {
	mu  sync.Mutex
	all [][]string
	err func(ids []string) error
}

func (r *requests) send(_ context.Context, ids []string) error {
	r.mu.Lock()
	r.all = append(r.all, slices.Clone(ids))
	r.mu.Unlock()
	time.Sleep(time.Second)
	if r.err == nil {
		return nil
	}
	return r.err(ids)
}

// end terminates n instances at the same time and returns the errors by ID.
func (r *requests) end(t *testing.T, n int) map[string]error {
	t.Helper()
	e := ends{send: r.send, turn: make(chan struct{}, 1)}
	errs := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		id := fmt.Sprint("i-", i)
		wg.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			err := e.terminate(t.Context(), id)
			mu.Lock()
			defer mu.Unlock()
			errs[id] = err
		})
	}
	wg.Wait()
	return errs
}

func TestTerminationsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &requests{}
		began := time.Now()
		for id, err := range r.end(t, 20) {
			if err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		if len(r.all) != 2 || len(r.all[0]) != 1 || len(r.all[1]) != 19 {
			t.Errorf("requests were %v, want the first at once and one for all the others", r.all)
		}
		if took := time.Since(began); took > 2100*time.Millisecond {
			t.Errorf("took %s", took)
		}
	})
}

// TestOneBadInstanceHarmsNoOther: EC2 fails the whole request for it.
func TestOneBadInstanceHarmsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &requests{err: func(ids []string) error {
			if slices.Contains(ids, "i-3") {
				return &cloudprovider.Error{Kind: cloudprovider.NotFound, Code: "InvalidInstanceID.NotFound"}
			}
			return nil
		}}
		for id, err := range r.end(t, 6) {
			if cloudprovider.IsNotFound(err) != (id == "i-3") {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
}

// TestThrottledTogether: one refusal is not made into many requests.
func TestThrottledTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &requests{err: func([]string) error {
			return &cloudprovider.Error{Kind: cloudprovider.Throttled, Code: "RequestLimitExceeded"}
		}}
		for id, err := range r.end(t, 20) {
			if cloudprovider.KindOf(err) != cloudprovider.Throttled {
				t.Errorf("%s: %v", id, err)
			}
		}
		if len(r.all) != 2 {
			t.Errorf("%d requests, want 2", len(r.all))
		}
	})
}

func TestGivenUpTermination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &requests{}
		e := ends{send: r.send, turn: make(chan struct{}, 1)}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := e.terminate(t.Context(), "i-1"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if err := e.terminate(ctx, "i-2"); err == nil {
			t.Error("waited although its context ended")
		}
		wg.Wait()
		// Who comes next takes the request that was given up along.
		if err := e.terminate(t.Context(), "i-3"); err != nil {
			t.Error(err)
		}
		if len(r.all) != 2 || !slices.Equal(r.all[1], []string{"i-2", "i-3"}) {
			t.Errorf("requests were %v", r.all)
		}
	})
}

func TestOwn(t *testing.T) {
	o := own{ids: map[string]uint64{}}
	listed := func(ids ...string) (all []cloudprovider.Instance) {
		for _, id := range ids {
			all = append(all, cloudprovider.Instance{ID: id})
		}
		return all
	}
	o.listing()(listed("i-1", "i-2"))
	seen := o.listing()
	o.add("i-young") // launched while the list was on its way
	seen(listed("i-2"))
	for id, want := range map[string]bool{"i-1": false, "i-2": true, "i-young": true, "i-other": false} {
		if o.has(id) != want {
			t.Errorf("%s is ours: %v, want %v", id, !want, want)
		}
	}
	o.listing()(listed("i-2"))
	if o.has("i-young") {
		t.Error("a list that began later does not show it, and it still counts as ours")
	}
}
