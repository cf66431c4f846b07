package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// overhead runs one pod that needs next to nothing and reads what the rest of
// its cell takes.
func (b *bench) overhead(ctx context.Context, settle time.Duration, out *document) error {
	env, err := b.environment(ctx)
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
	pod, err := b.create(ctx, tinyPod())
	if err != nil {
		return err
	}
	if _, err := watch.await(ctx, pod, func(s seen) bool { return !s.ready.IsZero() }); err != nil {
		return err
	}
	cell, err := b.cellOf(pod)
	if err != nil {
		return err
	}
	m, err := b.machine(cell.instance)
	if err != nil {
		return err
	}
	early, err := m.memory()
	if err != nil {
		return err
	}
	b.progress("the pod is ready; its cell's memory is read in %s", settle)
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	late, err := m.memory()
	if err != nil {
		return err
	}
	about, err := agents.status(ctx, cell)
	if err != nil {
		return err
	}
	groups, err := m.cgroupMemory()
	if err != nil {
		return err
	}
	writeOverhead(out, overheadReport{env, settle, early, late, about.Memory, groups})
	return nil
}

// tinyPod is a pod whose only container is the pause program.
func tinyPod() *corev1.Pod {
	pod := newPod("tiny", onKip)
	pod.Spec.Containers[0].Name = podContainer
	pod.Spec.Containers[0].Image = localcluster.PauseImage
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("8Mi"),
	}
	return pod
}

type overheadReport struct {
	env         environment
	settle      time.Duration
	early, late []processMemory
	agent       []status.Memory
	cgroups     []amount
}

// aimUnreclaimableKiB is what a cell may need beside its pod.
const aimUnreclaimableKiB = 96 << 10

func writeOverhead(d *document, r overheadReport) {
	d.printf("# The memory a cell needs beside its pod\n\nWritten by `make bench-overhead`. The pod is one container that does nothing. Memory is in KiB, read from /proc and from the\n" +
		"machine's cgroup. Unreclaimable is RssAnon: what the kernel cannot take back without swap. Total is VmRSS, which counts\n" +
		"the programs' files too; those pages can be taken back, and on a machine with several cells they are shared.\n\n")
	r.env.write(d)

	d.printf("## By process, when the pod is ready and %s later\n\n", r.settle)
	early := map[int]processMemory{}
	for _, p := range r.early {
		early[p.pid] = p
	}
	byAgent := map[int]status.Memory{}
	for _, p := range r.agent {
		byAgent[p.PID] = p
	}
	var rows [][]string
	var sumEarly, sum, pod processMemory
	for _, p := range r.late {
		e := early[p.pid]
		agent := ""
		if a, ok := byAgent[p.inside]; ok {
			agent = fmt.Sprint(a.AnonymousKiB)
		}
		rows = append(rows, []string{p.name, fmt.Sprint(e.anonymous), fmt.Sprint(p.anonymous), agent, fmt.Sprint(p.resident - p.anonymous), fmt.Sprint(p.resident)})
		if p.ofPod {
			pod.add(p)
			continue
		}
		sum.add(p)
		sumEarly.add(e)
	}
	rows = append(rows, []string{"sum without the pod's own", fmt.Sprint(sumEarly.anonymous), fmt.Sprint(sum.anonymous), "", fmt.Sprint(sum.resident - sum.anonymous), fmt.Sprint(sum.resident)})
	d.table([]string{"process", "unreclaimable, ready", "unreclaimable, later", "as the agent says", "files", "total"}, rows)

	verdict := "met"
	if sum.anonymous > aimUnreclaimableKiB {
		verdict = "missed"
	}
	d.printf("## Aim\n\n")
	d.table([]string{"", "aim", "measured", ""}, [][]string{
		{"unreclaimable beside the pod, MiB", "≤ 96", fmt.Sprintf("%.1f", float64(sum.anonymous)/1024), verdict},
		{"total beside the pod, MiB", "", fmt.Sprintf("%.1f", float64(sum.resident)/1024), ""},
		{"what Kip keeps for it when it chooses the instance type, MiB", "", fmt.Sprint(instancetype.CellMemoryMiB), ""},
	})

	d.printf("## The machine's cgroup\n\nThe pod's container and the kernel's own memory for all of them (page tables, sockets, mounts, network) are in it.\n\n")
	rows = nil
	for _, a := range r.cgroups {
		rows = append(rows, []string{a.name, fmt.Sprintf("%.1f", float64(a.bytes)/(1<<20))})
	}
	d.table([]string{"", "MiB"}, rows)
}
