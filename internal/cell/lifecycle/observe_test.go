package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

// askedCloud remembers what it was asked: nil for all instances.
type askedCloud struct {
	*cloudprovidertest.Fake
	asked [][]types.UID
}

func (c *askedCloud) List(ctx context.Context) ([]cloudprovider.Instance, error) {
	c.asked = append(c.asked, nil)
	return c.Fake.List(ctx)
}

func (c *askedCloud) ListCells(ctx context.Context, cells []types.UID) ([]cloudprovider.Instance, error) {
	c.asked = append(c.asked, cells)
	return c.Fake.ListCells(ctx, cells)
}

// sky is an observer and the cloud it looks at, with the cells 0 to n-1.
type sky struct {
	*observer
	t     *testing.T
	clock *clocktesting.FakeClock
	cloud *cloudprovidertest.Cloud
	asked *askedCloud
	ids   []string
}

func cellUID(i int) types.UID { return types.UID(fmt.Sprintf("uid-%04d", i)) }

func newSky(t *testing.T, n int) *sky {
	t.Helper()
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	cloud := cloudprovidertest.New(clk)
	s := &sky{t: t, clock: clk, cloud: cloud, asked: &askedCloud{Fake: cloud.Provider("test")}}
	for i := range n {
		got, err := s.asked.Create(t.Context(), cloudprovider.LaunchRequest{
			ClientToken: string(cellUID(i)), CellName: fmt.Sprint("cell-", i), CellUID: cellUID(i), Launch: v1beta1.LaunchStatus{Zone: "us-west-2a"},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.ids = append(s.ids, got.ID)
	}
	s.observer = newObserver(s.asked, clk)
	clk.Step(time.Hour)
	if news := s.lookAgain(); len(news) != n {
		t.Fatalf("the first look has news of %d cells, want all %d", len(news), n)
	}
	return s
}

func (s *sky) lookAgain() []string {
	s.t.Helper()
	news, err := s.look(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return news
}

func TestOnlyWhatMovesIsLookedAtOften(t *testing.T) {
	s := newSky(t, 5)
	s.transitional(cellUID(1), true)
	s.transitional(cellUID(3), true)
	s.cloud.Kill(s.ids[1], "user request")
	s.cloud.Kill(s.ids[4], "somebody else's request")
	s.clock.Step(hurriedLook)
	if diff := cmp.Diff([]string{"cell-1"}, s.lookAgain()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]types.UID{cellUID(1), cellUID(3)}, s.asked.asked[1]); diff != "" {
		t.Errorf("asked about: -want +got:\n%s", diff)
	}
	if seen, ok := s.latest(cellUID(1), 1); !ok || len(seen.instances) != 1 || seen.instances[0].State.Alive() {
		t.Errorf("of the cell that moves is known %+v, %v", seen, ok)
	}
	if seen, ok := s.latest(cellUID(4), 1); ok {
		t.Errorf("of a cell that was not looked at there is news: %+v", seen)
	}
	s.clock.Step(idleLook)
	if diff := cmp.Diff([]string{"cell-4"}, s.lookAgain()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if last := s.asked.asked[2]; last != nil {
		t.Errorf("asked about %v, want a look at all", last)
	}
}

func TestWhatIsGoneIsNews(t *testing.T) {
	for name, moves := range map[string]bool{"a cell that moves": true, "any other": false} {
		t.Run(name, func(t *testing.T) {
			s := newSky(t, 2)
			s.transitional(cellUID(0), moves)
			s.cloud.Forget(s.ids[0])
			s.clock.Step(hurriedLook)
			if diff := cmp.Diff([]string{"cell-0"}, s.lookAgain()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if seen, ok := s.latest(cellUID(0), 1); !ok || len(seen.instances) != 0 {
				t.Errorf("seen: %+v, %v", seen, ok)
			}
			if seen, ok := s.latest("never-had-any", 0); !ok || len(seen.instances) != 0 || seen.number != s.all.number {
				t.Errorf("of a cell without instance: %+v, %v; want what the last look at all shows", seen, ok)
			}
		})
	}
}

// TestEachOfManyHasItsTurn: a look costs the same however many cells move.
func TestEachOfManyHasItsTurn(t *testing.T) {
	const cells = 3*cloudprovider.CellsAtOnce - 50
	s := newSky(t, cells)
	for i := range cells {
		s.transitional(cellUID(i), true)
	}
	seen := map[types.UID]int{}
	for range 6 {
		s.clock.Step(hurriedLook)
		s.lookAgain()
		asked := s.asked.asked[len(s.asked.asked)-1]
		if len(asked) != cloudprovider.CellsAtOnce {
			t.Fatalf("asked about %d cells", len(asked))
		}
		for _, cell := range asked {
			seen[cell]++
		}
	}
	for i := range cells {
		if n := seen[cellUID(i)]; n < 2 || n > 3 {
			t.Errorf("cell %d was looked at %d times in six looks, want two or three", i, n)
		}
	}
}

// TestLateAnswers: what a later look saw is not undone by an earlier one that
// took longer.
func TestLateAnswers(t *testing.T) {
	s := newSky(t, 2)
	s.transitional(cellUID(0), true)
	sightOf := func(at look, id string) map[types.UID]sight {
		return map[types.UID]sight{cellUID(0): {at, []cloudprovider.Instance{{ID: id, CellName: "cell-0", CellUID: cellUID(0)}}}}
	}
	s.clock.Step(time.Hour)
	all, some := s.begin()
	if some != nil {
		t.Fatalf("begins with %v, want a look at all", some)
	}
	later := look{all.number + 1, s.clock.Now()}
	s.take(later, sightOf(later, "new"), false)
	news := s.take(all, sightOf(all, "old"), true)
	if diff := cmp.Diff([]string{"cell-1"}, news); diff != "" {
		t.Errorf("news: -want +got:\n%s", diff)
	}
	if seen, _ := s.latest(cellUID(0), 0); seen.number != later.number || seen.instances[0].ID != "new" {
		t.Errorf("seen: %+v", seen)
	}
	s.take(look{all.number - 1, all.began}, nil, true)
	if seen, _ := s.latest(cellUID(0), 0); len(seen.instances) != 1 {
		t.Error("a look of long ago undid what was seen since")
	}
}

func TestLooksAtThousands(t *testing.T) {
	s := newSky(t, 2)
	for i := range 2*pageOf + 1 {
		s.cells[cellUID(i)] = sight{}
	}
	if got, want := s.interval(), 3*idleLook; got != want {
		t.Errorf("%s between looks, want %s: three pages", got, want)
	}
	s.transitional(cellUID(1), true)
	if got := s.interval(); got != hurriedLook {
		t.Errorf("%s between looks while a cell moves", got)
	}
	s.clock.Step(2 * idleLook)
	if _, some := s.begin(); !slices.Equal(some, []types.UID{cellUID(1)}) {
		t.Errorf("begins with %v, want the one that moves", some)
	}
}
