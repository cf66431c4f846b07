package provider

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// TestTwoKipsShowOneCell has two Kips, each with a cache of its own that lags,
// place one pod while standby cells wait: in the midst of each other's calls, and
// killed at some of them. Cells that are launched come up at any time. Whatever
// happens, one cell is shown the pod, and in the end it has it.
func TestTwoKipsShowOneCell(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { placeByTwo(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func placeByTwo(t *testing.T, random *rand.Rand) {
	w, s := standbyWorld(t, 2)
	w.add()
	initial := append([]v1beta1.Cell{}, w.cells()...)
	kips := [2]*Provider{w.kip, nil}
	w.restart()
	kips[1] = w.kip

	shown := map[string]bool{}
	look := func(kip *Provider) {
		for _, c := range w.cells() {
			got, ok := kip.Cell(c.Name)
			if ok && got.PodUID == testUID && kip.Pod(c.Name) != nil && c.Status.Enrolment != nil && c.DeletionTimestamp == nil {
				shown[c.Name] = true
			}
		}
	}
	// boot has launched cells come up, or some of them.
	boot := func(one int) {
		for _, c := range w.cells() {
			if c.Spec.Standby == nil && c.DeletionTimestamp == nil && c.Status.Enrolment == nil && random.IntN(one) == 0 {
				w.change(&c, enrolled)
			}
		}
		look(kips[0])
		look(kips[1])
	}
	// work is one look at the pod by one of them, whose cache may be as it was
	// before either did anything. At any of its calls the other may do a whole one.
	depth := 0
	var work func(i int)
	work = func(i int) {
		depth++
		defer func() { depth-- }()
		w.kip, w.staleCells = kips[i], nil
		lags := random.IntN(2) == 0 && len(w.taken()) < 2
		if lags {
			w.staleCells = unclaimed(initial)
		}
		candidates := s.cells
		defer func() { s.cells = candidates }()
		if random.IntN(3) == 0 {
			s.cells = nil // it is launched
		}
		dead := false
		w.fail = func(call string) error {
			switch {
			case dead:
				return errKilled
			case call == "write status":
				return nil // the library's business
			}
			if depth < 2 && random.IntN(4) == 0 {
				stale, fail, lost := w.staleCells, w.fail, w.lost
				work(1 - i)
				boot(2)
				w.kip, w.staleCells, w.fail, w.lost = kips[i], stale, fail, lost
			}
			if dead = random.IntN(12) == 0; dead {
				return errKilled
			}
			return nil
		}
		w.lost = func(call string) error {
			if dead = call != "write status" && random.IntN(6) == 0; dead {
				return errKilled
			}
			return nil
		}
		_, err := kips[i].Reconcile(t.Context(), reconcile.Request{NamespacedName: testPod})
		w.fail, w.lost, w.staleCells = nil, nil, nil
		if errors.Is(err, errKilled) {
			clear(s.reserved)
			w.restart()
			kips[i] = w.kip
		}
		look(kips[i])
	}
	for range 12 {
		work(random.IntN(2))
		boot(3)
	}
	for range 8 { // nothing goes wrong any more
		w.kip = kips[0]
		w.settle()
		for _, c := range w.cells() {
			switch {
			case c.DeletionTimestamp != nil:
				w.remove(&c)
			case c.Spec.Standby == nil && c.Status.Enrolment == nil:
				w.change(&c, enrolled)
			}
		}
		look(kips[0])
	}
	if len(shown) != 1 {
		t.Errorf("the pod was shown to %d cells: %v", len(shown), shown)
	}
	for _, c := range w.taken() {
		if !shown[c.Name] || !c.Settled() {
			t.Errorf("cell %s is kept for the pod", c.Name)
		}
	}
	if w.pod().Status.Phase == corev1.PodFailed {
		t.Error("the pod failed")
	}
}

// unclaimed are cells as a cache that lags knows them; never nil.
func unclaimed(cells []v1beta1.Cell) []v1beta1.Cell {
	stale := []v1beta1.Cell{}
	for _, c := range cells {
		if c.Spec.Pod != nil {
			stale = append(stale, c)
		}
	}
	return stale
}
