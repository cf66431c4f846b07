package watchcache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

var serviceKind = corev1.SchemeGroupVersion.WithKind("Service")

func newServices(history int) *Collection {
	return NewCollection(serviceKind, NewVersions(time.Unix(1, 0)), history, func(o runtime.Object) fields.Set {
		return fields.Set{"spec.clusterIP": o.(*corev1.Service).Spec.ClusterIP}
	})
}

func service(name, clusterIP string, set map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: apitypes.UID("uid-" + name), Labels: set, ResourceVersion: "77"},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP},
	}
}

func replace(t *testing.T, c *Collection, list ...any) {
	t.Helper()
	if err := c.Replace(list, "1"); err != nil {
		t.Fatal(err)
	}
}

// seen is an event as a test writes it.
func seen(events []Event) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, fmt.Sprintf("%s %s", e.Type, e.Object.Name))
	}
	return out
}

func TestCollectionTellsWhatASelectorSees(t *testing.T) {
	notHeadless := Selector{Fields: fields.OneTermNotEqualSelector("spec.clusterIP", "None")}
	labelled := Selector{Labels: labels.SelectorFromSet(labels.Set{"app": "web"})}
	cases := map[string]struct {
		reason string
		sel    Selector
		change func(*Collection) error
		want   []string
	}{
		"Added": {
			reason: "a new object that matches",
			change: func(c *Collection) error { return c.Add(service("new", "10.0.0.9", nil)) },
			want:   []string{"ADDED new"},
		},
		"AddedElsewhere": {
			reason: "a new object that does not match is not told",
			sel:    notHeadless,
			change: func(c *Collection) error { return c.Add(service("new", "None", nil)) },
			want:   []string{},
		},
		"Modified": {
			reason: "a change of content",
			change: func(c *Collection) error { return c.Update(service("a", "10.0.0.2", nil)) },
			want:   []string{"MODIFIED a"},
		},
		"Unchanged": {
			reason: "only the API server's own version differs",
			change: func(c *Collection) error { return c.Update(service("a", "10.0.0.1", nil)) },
			want:   []string{},
		},
		"Enters": {
			reason: "a change makes it match",
			sel:    labelled,
			change: func(c *Collection) error { return c.Update(service("a", "10.0.0.1", map[string]string{"app": "web"})) },
			want:   []string{"ADDED a"},
		},
		"Leaves": {
			reason: "a change makes it match no more, which is a deletion to this watch",
			sel:    notHeadless,
			change: func(c *Collection) error { return c.Update(service("a", "None", nil)) },
			want:   []string{"DELETED a"},
		},
		"Deleted": {
			reason: "a deletion",
			change: func(c *Collection) error { return c.Delete(service("a", "10.0.0.1", nil)) },
			want:   []string{"DELETED a"},
		},
		"DeletedUnknown": {
			reason: "the deletion of what is not there is nothing",
			change: func(c *Collection) error { return c.Delete(service("x", "", nil)) },
			want:   []string{},
		},
		"Relisted": {
			reason: "a new list is told as its differences, deletions first",
			change: func(c *Collection) error {
				return c.Replace([]any{service("a", "10.0.0.1", nil), service("c", "10.0.0.3", nil)}, "2")
			},
			want: []string{"DELETED b", "ADDED c"},
		},
		"MadeAgain": {
			reason: "an object of the same name with another UID is another object",
			change: func(c *Collection) error {
				other := service("a", "10.0.0.1", nil)
				other.UID = "another"
				return c.Add(other)
			},
			want: []string{"DELETED a", "ADDED a"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := newServices(8)
			replace(t, c, service("a", "10.0.0.1", nil), service("b", "10.0.0.2", nil))
			_, from := c.List(Selector{})
			if err := tc.change(c); err != nil {
				t.Fatal(err)
			}
			events, reached, err := c.Since(from, tc.sel, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, seen(events)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			for _, e := range events {
				if e.Version <= from || e.Version > reached {
					t.Errorf("event has version %d, not in (%d, %d]", e.Version, from, reached)
				}
			}
		})
	}
}

func TestCollectionForgetsTheOldest(t *testing.T) {
	c := newServices(4)
	replace(t, c)
	_, start := c.List(Selector{})
	for i := range 4 {
		if err := c.Add(service(fmt.Sprint("s", i), "10.0.0.1", nil)); err != nil {
			t.Fatal(err)
		}
	}
	if events, _, err := c.Since(start, Selector{}, nil); err != nil || len(events) != 4 {
		t.Fatalf("all of a full ring: %v, %v", seen(events), err)
	}
	if err := c.Add(service("s4", "10.0.0.1", nil)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Since(start, Selector{}, nil); !errors.Is(err, ErrExpired) {
		t.Errorf("one change too many: got %v, want ErrExpired", err)
	}
	if events, _, err := c.Since(start+1, Selector{}, nil); err != nil || !cmp.Equal(seen(events), []string{"ADDED s1", "ADDED s2", "ADDED s3", "ADDED s4"}) {
		t.Errorf("the rest of the ring, in order: %v, %v", seen(events), err)
	}
	_, now := c.List(Selector{})
	if _, _, err := c.Since(now+1, Selector{}, nil); !errors.Is(err, ErrExpired) {
		t.Errorf("a version of the future: got %v, want ErrExpired", err)
	}
}

// TestCollectionReplay plays random changes and lets watches with random
// selectors, that look at random times, rebuild the collection from what they
// are told.
func TestCollectionReplay(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newServices(1 + r.IntN(30))
		replace(t, c, service("a", "None", nil))
		type watcher struct {
			sel   Selector
			at    uint64
			state map[string]string
		}
		relist := func(w *watcher) {
			objects, version := c.List(w.sel)
			w.at, w.state = version, map[string]string{}
			for _, o := range objects {
				w.state[o.Name] = string(o.rest)
			}
		}
		watchers := []*watcher{
			{sel: Selector{}},
			{sel: Selector{Fields: fields.OneTermNotEqualSelector("spec.clusterIP", "None")}},
			{sel: Selector{Labels: labels.SelectorFromSet(labels.Set{"app": "1"})}},
		}
		for _, w := range watchers {
			relist(w)
		}
		for range 300 {
			name := string(rune('a' + r.IntN(6)))
			s := service(name, []string{"None", "10.0.0.1", "10.0.0.2"}[r.IntN(3)], map[string]string{"app": fmt.Sprint(r.IntN(3))})
			s.UID = apitypes.UID(fmt.Sprint(name, r.IntN(20) == 0))
			var err error
			switch r.IntN(6) {
			case 0:
				err = c.Delete(s)
			case 1:
				err = c.Replace([]any{s, service("z", "None", nil)}, "")
			default:
				err = c.Add(s)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range watchers {
				if r.IntN(4) > 0 {
					continue
				}
				events, reached, err := c.Since(w.at, w.sel, nil)
				if err != nil {
					relist(w)
					continue
				}
				last := w.at
				for _, e := range events {
					if e.Version <= last {
						t.Fatalf("seed %d: versions do not grow", seed)
					}
					last = e.Version
					_, had := w.state[e.Object.Name]
					if had == (e.Type == watch.Added) {
						t.Fatalf("seed %d: %s of %s, which was there: %t", seed, e.Type, e.Object.Name, had)
					}
					if e.Type == watch.Deleted {
						delete(w.state, e.Object.Name)
						continue
					}
					w.state[e.Object.Name] = string(e.Object.rest)
				}
				w.at = reached
				want := &watcher{sel: w.sel}
				relist(want)
				if diff := cmp.Diff(want.state, w.state); diff != "" {
					t.Fatalf("seed %d: the watch does not see what is there: -want +got:\n%s", seed, diff)
				}
			}
		}
	}
}

// TestSinceDoesNotAllocate keeps a change cheap for each of thousands of
// watches.
func TestSinceDoesNotAllocate(t *testing.T) {
	c := newServices(16)
	replace(t, c)
	_, from := c.List(Selector{})
	if err := c.Add(service("a", "10.0.0.1", nil)); err != nil {
		t.Fatal(err)
	}
	sel := Selector{Fields: fields.OneTermNotEqualSelector("spec.clusterIP", "None")}
	events := make([]Event, 0, 8)
	allocs := testing.AllocsPerRun(100, func() {
		if _, _, err := c.Since(from, sel, events[:0]); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 {
		t.Errorf("Since allocates %v times", allocs)
	}
}
