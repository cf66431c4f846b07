package provider

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// watch wakes the gateway's watches when a cell or its pod changes. It is
// called before the caches start.
func (p *Provider) watch(ctx context.Context, c ctrlcache.Cache) error {
	cells, err := c.GetInformer(ctx, &v1beta1.Cell{})
	if err != nil {
		return fmt.Errorf("watching cells: %w", err)
	}
	pods, err := c.GetInformer(ctx, &corev1.Pod{})
	if err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	if _, err := cells.AddEventHandler(handlerOf(p.cellChanged, p.cellGone)); err != nil {
		return fmt.Errorf("watching cells: %w", err)
	}
	_, err = pods.AddEventHandler(handlerOf(p.podChanged, func(pod *corev1.Pod) { p.forget(pod.UID) }))
	if err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	return nil
}

// handlerOf calls changed for adds and updates and gone for deletes, whichever
// form they come in: an object that was deleted and made anew while the watch
// was broken comes as an update.
func handlerOf[T metav1.Object](changed, gone func(T)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { changed(o.(T)) },
		UpdateFunc: func(before, o any) {
			if old, now := before.(T), o.(T); old.GetUID() != now.GetUID() {
				gone(old)
			}
			changed(o.(T))
		},
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if t, ok := o.(T); ok {
				gone(t)
			}
		},
	}
}

func (p *Provider) cellChanged(cell *v1beta1.Cell) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref := cell.Spec.Pod
	if ref == nil {
		p.wake(cell.Name)
		return
	}
	if p.cells[ref.UID] == nil {
		p.cells[ref.UID] = map[string]bool{}
	}
	p.cells[ref.UID][cell.Name] = true
	// All of the pod's: another may have waited for this change.
	p.wakeCells(ref.UID)
}

func (p *Provider) cellGone(cell *v1beta1.Cell) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake(cell.Name)
	ref := cell.Spec.Pod
	if ref == nil {
		return
	}
	p.wakeCells(ref.UID)
	if delete(p.cells[ref.UID], cell.Name); len(p.cells[ref.UID]) == 0 {
		delete(p.cells, ref.UID)
		delete(p.gone, ref.UID)
	}
}

func (p *Provider) podChanged(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeCells(pod.UID)
}

// wakeCells pokes everyone who waits for a cell of the pod. The caller holds mu.
func (p *Provider) wakeCells(pod types.UID) {
	for cell := range p.cells[pod] {
		p.wake(cell)
	}
}

// wake pokes everyone who waits for the cell. The caller holds mu.
func (p *Provider) wake(cell string) {
	for ch := range p.watchers[cell] {
		select {
		case ch <- struct{}{}:
		default: // it is awake already
		}
	}
}

// Subscribe returns a channel that is poked after every change of the cell or
// its pod, until cancel is called. It is part of gateway.State.
func (p *Provider) Subscribe(cell string) (changed <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watchers[cell] == nil {
		p.watchers[cell] = map[chan struct{}]struct{}{}
	}
	p.watchers[cell][ch] = struct{}{}
	return ch, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watchers[cell], ch)
		if len(p.watchers[cell]) == 0 {
			delete(p.watchers, cell)
		}
	}
}
