package controller

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// How long cells wait for an image that is being fetched. It is about what they
// would need themselves, so that one that waited in vain has lost as much again
// and no more.
const (
	// fetchTime is what fetching any image may take, and fetchRate how many bytes
	// of an archive come and are converted in a second, at least.
	fetchTime = 10 * time.Second
	fetchRate = 20 << 20
	// fetchTimeAtMost bounds it all: a pod that waits longer should say so.
	fetchTimeAtMost = 4 * time.Minute
)

// fetching is an image of which layers are being fetched. It says so in the
// CachedImage, layer by layer, for cells that wait for them.
//
// It says so when its turn has come, not before: an image that waits behind
// others would keep cells from pulling it.
type fetching struct {
	controller *Controller
	image      *v1beta1.CachedImage
	// bytes are those of all of the image's archives.
	bytes int64
	// here are the layers that have come, the lowest first.
	here []v1beta1.CachedLayer
	// until is set from begin on.
	until *metav1.Time
}

// begin waits for the image's turn and writes it down. Only the first one does.
func (f *fetching) begin(ctx context.Context) error {
	if f.until != nil {
		return nil
	}
	select {
	case f.controller.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	patience := min(fetchTime+time.Duration(f.bytes/fetchRate)*time.Second, fetchTimeAtMost)
	f.until = &metav1.Time{Time: f.controller.cfg.Clock.Now().Add(patience)}
	f.tell(ctx)
	return nil
}

// arrived says that there are these layers now.
func (f *fetching) arrived(ctx context.Context, layers []v1beta1.CachedLayer) {
	f.here = layers
	if f.until != nil {
		f.tell(ctx)
	}
}

// tell writes down what has come. Cells do without if that fails.
func (f *fetching) tell(ctx context.Context) {
	ready := readyCondition(metav1.ConditionFalse, v1beta1.ReasonFetching, fmt.Sprintf("%d layers have come.", len(f.here)))
	if err := f.controller.write(ctx, f.image, f.here, ready, f.until); err != nil && ctx.Err() == nil {
		f.controller.cfg.Logger.WarnContext(ctx, "cells do not wait for an image that is being fetched", "err", err)
	}
}

// failed says that no more layers come for now.
func (f *fetching) failed(ctx context.Context, why error) error {
	if f.until == nil {
		return nil
	}
	return f.controller.write(ctx, f.image, f.here, readyCondition(metav1.ConditionFalse, v1beta1.ReasonNotFetched, why.Error()), nil)
}

// end lets another image have its turn.
func (f *fetching) end() {
	if f.until != nil {
		<-f.controller.slots
	}
}
