package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// imagePatience is for gigabytes in a computer that is emulated.
const imagePatience = 30 * time.Minute

type imageOptions struct {
	// megabytes are the images' sizes, and rounds how often each is started in
	// each way.
	megabytes []int
	rounds    int
	// percent is how much of its image a process reads.
	percent int
	cells   string
}

// way is how a pod gets its image.
type way int

const (
	// byNode: the ordinary node's containerd pulls it.
	byNode way = iota
	// byRegistry: a new cell's containerd does, as the cache does not have it.
	byRegistry
	// byCache: a new cell mounts it.
	byCache
)

// imageSample is the start of one pod.
type imageSample struct {
	// pull is how long the kubelet waited for the image, read how long the
	// process then took to read its part, and whole all from the scheduler's
	// decision until it had.
	pull, read, whole time.Duration
	// network and share are what the instance received and what its snapshotter
	// read, in bytes. A share that is NFS is part of the network, and share is 0.
	network, share int64
	result         imageRead
	calm           bool
}

// imageRead is what the measured process says.
type imageRead struct {
	Files   int     `json:"files"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// measuredImage is one size.
type measuredImage struct {
	megabytes int
	// filled is how long the image was new to the cache.
	filled time.Duration
	starts map[way][]imageSample
}

func (i measuredImage) cached() string {
	return fmt.Sprintf("docker.io/bench/cached-%d:1", i.megabytes)
}
func (i measuredImage) uncached() string {
	return fmt.Sprintf("docker.io/bench/pulled-%d:1", i.megabytes)
}

// images measures starts of pods from images that are pulled and images that are
// in the image cache.
func (b *bench) images(ctx context.Context, o imageOptions, out *document) error {
	env, err := b.environment(ctx)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	watch, wait, err := b.observe(watching)
	if err != nil {
		stop()
		return fmt.Errorf("watching pods: %w", err)
	}
	defer wait()
	defer stop()
	var all []*measuredImage
	for _, megabytes := range o.megabytes {
		i := &measuredImage{megabytes: megabytes, starts: map[way][]imageSample{}}
		b.progress("making an image of %d MB", megabytes)
		if err := b.pushImage(ctx, megabytes, o.percent, i.cached(), i.uncached()); err != nil {
			return fmt.Errorf("making an image of %d MB: %w", megabytes, err)
		}
		if err := b.fillCache(ctx, i); err != nil {
			return fmt.Errorf("filling the image cache: %w", err)
		}
		b.progress("it was in the cache after %.1f s", i.filled.Seconds())
		all = append(all, i)
	}
	// What is pulled from now on stays out of the cache, and nobody converts it meanwhile.
	if err := b.Kill(localcluster.ImageCache); err != nil {
		return err
	}
	r := imageRunner{b, watch}
	for _, i := range all {
		for n := range o.rounds {
			if err := r.round(ctx, i, n); err != nil {
				return fmt.Errorf("an image of %d MB: %w", i.megabytes, err)
			}
		}
	}
	writeImages(out, env, o, all)
	return nil
}

// fillCache has a pod with the image until the cache has it too.
func (b *bench) fillCache(ctx context.Context, i *measuredImage) error {
	const name = "fill"
	began := time.Now()
	if _, err := b.create(ctx, imagePod(name, i.cached(), onKip)); err != nil {
		return err
	}
	err := await(ctx, "the image to be in the cache", func(ctx context.Context) (bool, error) { return b.Cached(ctx, i.cached()) })
	if err != nil {
		return err
	}
	i.filled = time.Since(began)
	if err := b.remove(ctx, name); err != nil {
		return err
	}
	return b.awaitNoCells(ctx)
}

func imagePod(name, image string, node map[string]string) *corev1.Pod {
	pod := newPod(name, node)
	pod.Spec.Containers[0].Image = image
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("2Gi"),
	}
	return pod
}

// imageRunner starts pods and finds out how that went.
type imageRunner struct {
	*bench
	watch *observer
}

// round starts a pod in each way, one after the other, so that whatever else the
// machine does disturbs all alike.
func (r imageRunner) round(ctx context.Context, i *measuredImage, n int) error {
	ways := []struct {
		way   way
		image string
	}{{byRegistry, i.uncached()}, {byCache, i.cached()}}
	for _, w := range ways {
		name := fmt.Sprintf("image-%d-%d-%d", i.megabytes, w.way, n)
		s, err := r.onCell(ctx, name, w.image)
		if err != nil {
			return err
		}
		i.starts[w.way] = append(i.starts[w.way], s)
		if err := r.awaitNoCells(ctx); err != nil {
			return err
		}
	}
	if r.Cells != localcluster.CellsVM {
		s, err := r.onNode(ctx, fmt.Sprintf("image-%d-%d-%d", i.megabytes, byNode, n), i.uncached())
		if err != nil {
			return err
		}
		i.starts[byNode] = append(i.starts[byNode], s)
	}
	last := func(w way) string {
		if len(i.starts[w]) == 0 {
			return "not measured"
		}
		s := i.starts[w][n]
		return fmt.Sprintf("%s + %s ms", milliseconds(s.pull), milliseconds(s.read))
	}
	r.progress("%d MB, round %d, pull + read: registry %s, cache %s, ordinary node %s", i.megabytes, n+1, last(byRegistry), last(byCache), last(byNode))
	return nil
}

// onCell starts a pod on a new cell, waits until it has read its part of the
// image, and removes it.
func (r imageRunner) onCell(ctx context.Context, name, image string) (imageSample, error) {
	s, pod, err := r.start(ctx, imagePod(name, image, onKip))
	if err != nil {
		return s, err
	}
	cell, err := r.cellOf(pod)
	if err != nil {
		return s, err
	}
	if s.network, err = r.Received(cell.instance); err != nil {
		return s, err
	}
	if r.Cells != localcluster.CellsVM {
		m, err := r.machine(cell.instance)
		if err != nil {
			return s, err
		}
		if s.share, err = m.readByCache(); err != nil {
			return s, err
		}
	}
	return s, r.remove(ctx, name)
}

// onNode does so on the ordinary node, which then forgets the image.
func (r imageRunner) onNode(ctx context.Context, name, image string) (imageSample, error) {
	m, err := r.plainNode(ctx)
	if err != nil {
		return imageSample{}, err
	}
	before, err := r.Received(m.id)
	if err != nil {
		return imageSample{}, err
	}
	s, pod, err := r.start(ctx, imagePod(name, image, onPlain))
	if err != nil {
		return s, err
	}
	after, err := r.Received(m.id)
	if err != nil {
		return s, err
	}
	s.network = after - before
	if err := r.remove(ctx, name); err != nil {
		return s, err
	}
	return s, m.forget(ctx, image, pod.UID)
}

// start makes a pod and waits until its process has read its part.
func (r imageRunner) start(ctx context.Context, pod *corev1.Pod) (s imageSample, made *corev1.Pod, err error) {
	if s.calm, err = awaitCalm(ctx); err != nil {
		return s, nil, err
	}
	if made, err = r.create(ctx, pod); err != nil {
		return s, nil, err
	}
	saw, err := r.watch.await(ctx, made, func(s seen) bool { return !s.ready.IsZero() && s.pulled })
	if err != nil {
		return s, nil, err
	}
	if saw.pull == 0 {
		return s, nil, fmt.Errorf("pod %s found its image, which is to be new to its machine", made.Name)
	}
	said, err := r.kube.CoreV1().Pods(namespace).GetLogs(made.Name, &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		return s, nil, fmt.Errorf("following the log of pod %s: %w", made.Name, err)
	}
	err = json.NewDecoder(said).Decode(&s.result)
	s.whole = time.Since(saw.bound)
	if err := errors.Join(err, said.Close()); err != nil {
		return s, nil, fmt.Errorf("reading the log of pod %s: %w", made.Name, err)
	}
	s.pull, s.read = saw.pull, time.Duration(s.result.Seconds*float64(time.Second))
	return s, made, nil
}
