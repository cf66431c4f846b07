package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// aimUpdate is within what time 99 of 100 changes are to be in pods' files.
const aimUpdate = 15 * time.Second

const (
	// look is how often the files are read.
	look = 50 * time.Millisecond
	// startPace keeps cells from booting all at once on one machine.
	startPace = 500 * time.Millisecond

	configVolume, configKey = "config", "value"
)

type configMapOptions struct {
	pods, updates int
	over          time.Duration
}

// mounted is a pod with a ConfigMap of its own.
type mounted struct {
	name string
	// file is the ConfigMap's value in the pod, as this machine reads it.
	file string
	// sent are the times of the changes: the n-th made the value n+1.
	sent []time.Time
	// arrived are those of which it is known that the pod's file has them.
	arrived int
}

// configMaps changes the ConfigMaps of many running pods and measures when the
// changes are in the pods' files.
func (b *bench) configMaps(ctx context.Context, o configMapOptions, out *document) error {
	env, err := b.environment(ctx)
	if err != nil {
		return err
	}
	b.Unthrottled = true
	if err := b.Start(ctx, localcluster.EC2Local); err != nil {
		return fmt.Errorf("having instances launch without limit: %w", err)
	}
	pods, err := b.mountConfigMaps(ctx, o.pods)
	if err != nil {
		return err
	}
	b.progress("%d pods run; %d changes in %s", o.pods, o.updates, o.over)
	took, err := b.changeConfigMaps(ctx, pods, o)
	if err != nil {
		return err
	}
	writeConfigMaps(out, env, o, took)
	return nil
}

// mountConfigMaps makes the pods and waits until all run.
func (b *bench) mountConfigMaps(ctx context.Context, count int) ([]*mounted, error) {
	watching, stop := context.WithCancel(ctx)
	watch, wait, err := b.observe(watching)
	if err != nil {
		stop()
		return nil, fmt.Errorf("watching pods: %w", err)
	}
	defer wait()
	defer stop()
	var made []*corev1.Pod
	for i := range count {
		name := fmt.Sprintf("config-%d", i)
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{configKey: "0"}}
		if _, err := b.kube.CoreV1().ConfigMaps(namespace).Create(ctx, config, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("making ConfigMap %s: %w", name, err)
		}
		pod := newPod(name, onKip)
		pod.Spec.Volumes = []corev1.Volume{{Name: configVolume, VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
		}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: configVolume, MountPath: "/" + configVolume}}
		if pod, err = b.create(ctx, pod); err != nil {
			return nil, err
		}
		made = append(made, pod)
		select {
		case <-time.After(startPace):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var pods []*mounted
	for _, pod := range made {
		if _, err := watch.await(ctx, pod, func(s seen) bool { return !s.ready.IsZero() }); err != nil {
			return nil, err
		}
		cell, err := b.cellOf(pod)
		if err != nil {
			return nil, err
		}
		m, err := b.machine(cell.instance)
		if err != nil {
			return nil, err
		}
		pods = append(pods, &mounted{name: pod.Name, file: filepath.Join("/proc", strconv.Itoa(m.init), "root/var/lib/kubelet/pods",
			string(pod.UID), "volumes/kubernetes.io~configmap", configVolume, configKey)})
	}
	return pods, nil
}

// changeConfigMaps changes one after the other, at a steady pace, and returns
// how long each change took to be in its pod's file. A change that another
// overtook was there when that was.
func (b *bench) changeConfigMaps(ctx context.Context, pods []*mounted, o configMapOptions) ([]time.Duration, error) {
	var took []time.Duration
	began, sent := time.Now(), 0
	tick := time.NewTicker(look)
	defer tick.Stop()
	for len(took) < o.updates {
		if due := int(float64(o.updates) * time.Since(began).Seconds() / o.over.Seconds()); sent < min(due, o.updates) {
			p := pods[sent%len(pods)]
			p.sent = append(p.sent, time.Now())
			patch := fmt.Appendf(nil, `{"data":{%q:"%d"}}`, configKey, len(p.sent))
			if _, err := b.kube.CoreV1().ConfigMaps(namespace).Patch(ctx, p.name, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
				return nil, fmt.Errorf("changing ConfigMap %s: %w", p.name, err)
			}
			sent++
		}
		for _, p := range pods {
			news, err := p.look()
			if err != nil {
				return nil, err
			}
			took = append(took, news...)
		}
		if time.Since(began) > o.over+patience {
			return nil, fmt.Errorf("%d of %d changes are in no pod's file %s after the last", o.updates-len(took), o.updates, patience)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return took, nil
}

// look reads the file and returns how long the changes took that are in it for
// the first time.
func (p *mounted) look() ([]time.Duration, error) {
	if p.arrived == len(p.sent) {
		return nil, nil
	}
	text, err := os.ReadFile(p.file)
	if err != nil {
		return nil, fmt.Errorf("reading the ConfigMap in pod %s: %w", p.name, err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("reading the ConfigMap in pod %s: %w", p.name, err)
	}
	var took []time.Duration
	for now := time.Now(); p.arrived < value; p.arrived++ {
		took = append(took, now.Sub(p.sent[p.arrived]))
	}
	return took, nil
}

func writeConfigMaps(d *document, env environment, o configMapOptions, took []time.Duration) {
	d.printf("# When a change of a ConfigMap is in a pod's files\n\nWritten by `make bench-configmaps`. %d pods run, each with a ConfigMap of its own as a volume; %d changes in %s, one after the\n"+
		"other. The time is from the request to the API server to the new content of the file in the pod. The kubelet has a watch on the\n"+
		"ConfigMap, through the gateway, and looks at its pod's volumes every 10 to 15 seconds.\n\n", o.pods, o.updates, o.over)
	env.write(d)
	p99 := percentile(took, 99)
	verdict := "met"
	if p99 > aimUpdate {
		verdict = "missed"
	}
	d.printf("## Figures\n\n")
	d.table([]string{"", "p50", "p90", "p99", "slowest"}, [][]string{append(append([]string{"ms"}, spread(took)...), milliseconds(percentile(took, 100)))})
	d.table([]string{"", "aim", "measured", ""}, [][]string{
		{"changes that arrived", fmt.Sprint(o.updates), fmt.Sprint(len(took)), "met"},
		{"p99, s", fmt.Sprintf("≤ %.0f", aimUpdate.Seconds()), fmt.Sprintf("%.1f", p99.Seconds()), verdict},
	})
}
