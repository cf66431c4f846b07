package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

const (
	// answerKept is how long Kip's answer serves for the other layers of an
	// image; its pull takes less.
	answerKept = time.Minute
	// awaitAtMost bounds the wait for an image that is being fetched. Kip, which
	// knows how large it is, ends it earlier.
	awaitAtMost = 5 * time.Minute
)

// answers keeps what Kip said while an image is pulled, layer by layer.
type answers struct {
	mu   sync.Mutex
	last map[grant.Question]*answer
}

// answer is what Kip said of an image, once asked is closed.
type answer struct {
	asked chan struct{}
	// since is when Kip was asked of the image for the first time.
	since  time.Time
	layers []layer.Layer
	// coming says that Kip is to be asked again for more, whole that these are all.
	coming, whole bool
}

// granted returns the layer of an image that is meant, if the cell may have it.
// While the image is being fetched it waits for that layer. Kip is asked once for
// each answer, however many layers there are, and told if it is in vain.
func (s *Snapshotter) granted(ctx context.Context, q grant.Question, is func(layer.Layer) bool) (layer.Layer, bool) {
	var before *answer
	for {
		a := s.answer(ctx, q, before)
		select {
		case <-a.asked:
		default: // ctx has ended
			return layer.Layer{}, false
		}
		if i := slices.IndexFunc(a.layers, is); i >= 0 {
			return a.layers[i], true
		}
		if !a.coming {
			if a.whole {
				s.cfg.Logger.Warn("the layers that Kip grants are not those of the image", "image", q.Image, "manifest", q.Manifest)
			}
			return layer.Layer{}, false
		}
		before = a
	}
}

// answer returns what Kip says now of an image: something newer than before.
func (s *Snapshotter) answer(ctx context.Context, q grant.Question, before *answer) *answer {
	s.answers.mu.Lock()
	a := s.answers.last[q]
	mine := a == nil || a == before
	if mine {
		a = &answer{asked: make(chan struct{}), since: time.Now()}
		if before != nil {
			a.since, a.layers = before.since, before.layers
		}
		s.answers.last[q] = a
		time.AfterFunc(answerKept, func() {
			s.answers.mu.Lock()
			defer s.answers.mu.Unlock()
			if s.answers.last[q] == a {
				delete(s.answers.last, q)
			}
		})
	}
	s.answers.mu.Unlock()
	if mine {
		s.ask(ctx, q, a)
		close(a.asked)
		return a
	}
	select {
	case <-a.asked:
	case <-ctx.Done():
	}
	return a
}

// ask asks Kip, and reports an image of which there is nothing, or nothing more.
func (s *Snapshotter) ask(ctx context.Context, q grant.Question, a *answer) {
	asked := q
	asked.Have = len(a.layers)
	got, err := s.cfg.Grants.Grant(ctx, asked)
	waited := time.Since(a.since)
	switch {
	case err != nil:
		s.cfg.Logger.Warn("Kip does not say which layers of the cache are the pod's", "image", q.Image, "error", err)
		s.cfg.Report(grant.Report{Image: q.Image, Reason: grant.Unanswered, Message: err.Error()})
		return
	case got.Coming && waited < awaitAtMost:
		s.cfg.Logger.Info("the image is being fetched into the cache", "image", q.Image, "layers", len(got.Layers))
	case got.Coming || len(got.Layers) == 0:
		report := grant.Report{Image: q.Image, Reason: grant.NotCached}
		if waited > time.Second {
			report.Message = fmt.Sprintf("no more layers came in %s", waited.Round(time.Second))
		}
		s.cfg.Report(report)
		a.layers = got.Layers
		return
	}
	a.layers, a.coming, a.whole = got.Layers, got.Coming, !got.Coming
}
