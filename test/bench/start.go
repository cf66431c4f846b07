package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/agent/status"
)

type startOptions struct {
	pods, standby, burst int
	// rate is in pods per second.
	rate float64
}

// start measures single cold starts, on cells and on an ordinary node in turn,
// then starts on standby cells, and then a burst.
func (b *bench) start(ctx context.Context, o startOptions, out *document) error {
	env, err := b.environment(ctx)
	if err != nil {
		return err
	}
	plain, err := b.plainNode(ctx)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	watch, wait, err := b.observe(watching)
	if err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	defer wait()
	defer stop()
	agents, err := b.agents(ctx)
	if err != nil {
		return err
	}
	r := runner{b, watch, agents, plain}
	var onCells, onNode, onStandby []sample
	if o.pods > 0 {
		if onCells, onNode, err = r.inTurn(ctx, o.pods); err != nil {
			return err
		}
	}
	if o.standby > 0 {
		if onStandby, err = r.onStandby(ctx, o.standby); err != nil {
			return err
		}
	}
	var inBurst []sample
	if o.burst > 0 {
		if inBurst, err = r.burst(ctx, o); err != nil {
			return err
		}
	}
	writeStart(out, env, o, onCells, onNode, onStandby, inBurst)
	return nil
}

// runner starts pods and finds out how that went.
type runner struct {
	*bench
	watch  *observer
	agents agents
	plain  machine
}

// inTurn starts one pod after the other, on a cell and on the ordinary node by
// turns, so that whatever else the machine does disturbs both alike. The first
// of each kind warms up caches and is not counted.
func (r runner) inTurn(ctx context.Context, pods int) (onCells, onNode []sample, err error) {
	for i := range pods + 1 {
		cell, err := r.single(ctx, newPod(fmt.Sprintf("cell-%d", i), onKip), r.onCell)
		if err != nil {
			return nil, nil, err
		}
		if err := r.awaitNoCells(ctx); err != nil {
			return nil, nil, err
		}
		node, err := r.single(ctx, newPod(fmt.Sprintf("node-%d", i), onPlain), r.onNode)
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			continue
		}
		onCells, onNode = append(onCells, cell), append(onNode, node)
		r.progress("%d of %d: ready after %s ms on a cell, %s ms on the ordinary node", i, pods,
			milliseconds(cell.at[ready].Sub(cell.at[bound])), milliseconds(node.at[ready].Sub(node.at[bound])))
	}
	return onCells, onNode, nil
}

// single starts a pod, asks where it runs for the times, and removes it.
func (r runner) single(ctx context.Context, measured *corev1.Pod, ask func(context.Context, *corev1.Pod, *sample) error) (sample, error) {
	s := sample{pod: measured.Name, at: map[step]time.Time{}}
	var err error
	if s.calm, err = awaitCalm(ctx); err != nil {
		return s, err
	}
	pod, err := r.create(ctx, measured)
	if err != nil {
		return s, err
	}
	saw, err := r.watch.await(ctx, pod, func(s seen) bool { return !s.ready.IsZero() && s.pulled })
	if err != nil {
		return s, err
	}
	s.at[bound], s.at[running], s.at[ready], s.pull = saw.bound, saw.running, saw.ready, saw.pull
	if err := ask(ctx, pod, &s); err != nil {
		return s, err
	}
	if err := r.remove(ctx, measured.Name); err != nil {
		return s, err
	}
	return s, nil
}

// onNode adds what the ordinary node knows.
func (r runner) onNode(ctx context.Context, pod *corev1.Pod, s *sample) error {
	return r.inside(ctx, r.plain, pod, s)
}

// onCell adds what Kip and the cell know.
func (r runner) onCell(ctx context.Context, pod *corev1.Pod, s *sample) error {
	cell, err := r.cellOf(pod)
	if err != nil {
		return err
	}
	if err := r.outside(ctx, cell, s); err != nil {
		return err
	}
	m, err := r.machine(cell.instance)
	if err != nil {
		return err
	}
	return r.inside(ctx, m, pod, s)
}

// outside adds what Kip and the agent know of a cell.
func (r runner) outside(ctx context.Context, cell *cellLog, s *sample) error {
	about, err := r.agents.status(ctx, cell)
	if err != nil {
		return err
	}
	for at, t := range map[step]time.Time{
		written: cell.written, sent: cell.sent, launched: cell.launched,
		agentReached: cell.reached, enrolled: cell.enrolled, connected: cell.connected,
		listening:      reached(about, status.StepListening),
		kubeletStarted: reached(about, status.StepKubeletStarted),
		kubeletAsked:   reached(about, status.StepKubeletRequest),
	} {
		s.at[at] = t
	}
	return nil
}

// inside adds what kubelet and containerd of a machine know.
func (r runner) inside(ctx context.Context, m machine, pod *corev1.Pod, s *sample) (err error) {
	if s.at[sawPod], err = m.kubeletSaw(pod.UID); err != nil {
		return err
	}
	times, err := m.runtimeTimes(ctx, pod.UID)
	s.at[sandbox], s.at[started] = times.sandbox, times.started
	return err
}
