package e2e

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ggcrtypes "github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// bigFile is the size of the file in each layer of a cachedImage but the first:
// larger than what starting the image reads.
const bigFile = 2 << 20

// cachedImage is an image of this test alone, with a shell and files whose hashes
// are known.
type cachedImage struct {
	name  string
	image v1.Image
	// sums is what sha256sum says of its files.
	sums string
}

// newCachedImage makes an image of busybox and two layers above it, and pushes it.
func (s *space) newCachedImage(name string) *cachedImage {
	s.Helper()
	c := &cachedImage{name: "docker.io/" + s.name + "/" + name + ":1", image: images[busyboxImage]}
	var sums []string
	for range 2 {
		layer, err := random.Layer(bigFile, ggcrtypes.DockerLayer)
		if err != nil {
			s.Fatal(err)
		}
		if c.image, err = mutate.AppendLayers(c.image, layer); err != nil {
			s.Fatal(err)
		}
		sums = append(sums, s.sumOf(layer))
	}
	slices.Sort(sums)
	c.sums = strings.Join(sums, "\n") + "\n"
	if err := shared.Push(s.Context(), c.image, c.name); err != nil {
		s.Fatal(err)
	}
	return c
}

// sumOf is the hash of a layer's only file.
func (s *space) sumOf(layer v1.Layer) string {
	s.Helper()
	archive, err := layer.Uncompressed()
	if err != nil {
		s.Fatal(err)
	}
	defer archive.Close()
	entries := tar.NewReader(archive)
	if _, err := entries.Next(); err != nil {
		s.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, entries); err != nil {
		s.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func (c *cachedImage) pod(name string) *corev1.Pod {
	main := small("main", c.name)
	main.Command = []string{"sh", "-c", forever}
	return newPod(name, main)
}

// checkFiles reads all of the image's files in a pod.
func (s *space) checkFiles(pod string, c *cachedImage) {
	s.Helper()
	if got := s.kubectl("exec", pod, "--", "sh", "-c", "sha256sum /random_file_* | cut -d ' ' -f 1 | sort"); got != c.sums {
		s.Errorf("%s: the hashes of its files are\n%swant\n%s", pod, got, c.sums)
	}
}

// pulls is how often layers of the image were read from the cluster's registry,
// by its own log.
func (s *space) pulls(c *cachedImage) int {
	s.Helper()
	log, err := os.ReadFile(shared.LogPath(localcluster.Registry))
	if err != nil {
		s.Fatal(err)
	}
	layers, err := c.image.Layers()
	if err != nil {
		s.Fatal(err)
	}
	repository := strings.TrimSuffix(strings.TrimPrefix(c.name, "docker.io/"), ":1")
	n := 0
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			s.Fatal(err)
		}
		n += strings.Count(string(log), fmt.Sprintf(`"GET /v2/%s/blobs/%s `, repository, digest))
	}
	return n
}

// awaitCached waits until the image is in the cache.
func (s *space) awaitCached(image string) {
	s.Helper()
	s.eventually(image+" is in the cache", func(ctx context.Context) error {
		there, err := shared.Cached(ctx, image)
		if err == nil && !there {
			err = errors.New("it is not")
		}
		return err
	})
}

// cacheFiles are the files of the image's layers on the share, with the sizes of
// their file systems.
func (s *space) cacheFiles(c *cachedImage) map[string]int64 {
	s.Helper()
	var all v1beta1.CachedImageList
	if err := shared.cells.List(s.Context(), &all); err != nil {
		s.Fatal(err)
	}
	files := map[string]int64{}
	for _, i := range all.Items {
		if i.Spec.Repository+":1" == c.name {
			for _, l := range i.Status.Layers {
				files[filepath.Join(shared.Dir, "image-cache", "share", l.Path)] = l.Size
			}
		}
	}
	if len(files) == 0 {
		s.Fatalf("there is no CachedImage of %s", c.name)
	}
	return files
}

// without are the reasons for which a pod did without the cache, by its events.
func (s *space) without(pod string) []string {
	s.Helper()
	events, err := shared.kube.CoreV1().Events(s.name).List(s.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		s.Fatal(err)
	}
	var reasons []string
	for _, e := range events.Items {
		if strings.HasPrefix(e.Reason, "ImageCache") {
			reasons = append(reasons, e.Reason+": "+e.Message)
		}
	}
	return reasons
}

// unused is how often Kip was told that the cache was not used, for one reason.
func (s *space) unused(reason string) int {
	s.Helper()
	metrics := s.kubectl("get", "--raw", "/api/v1/nodes/"+localcluster.NodeName+"/proxy/metrics")
	_, after, found := strings.Cut(metrics, "kip_image_cache_unused_total{reason=\""+reason+"\"} ")
	if !found {
		return 0
	}
	value, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(value)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func needImageCache(t *testing.T) {
	t.Helper()
	if !shared.ImageCache {
		t.Skip("this cluster has no image cache")
	}
}

// TestImageCache: a pod starts from the cache, and nothing of its image is pulled.
// Then the files are poisoned, under a pod that runs and for one that starts: both
// have what their image has, from the registry, and say so. What else may be wrong
// with a cache the tests of package snapshotter go through.
func TestImageCache(t *testing.T) {
	needImageCache(t)
	t.Parallel()
	s := newSpace(t)
	image := s.newCachedImage("app")
	s.start(image.pod("first"))
	s.awaitCached(image.name)

	before := s.pulls(image)
	s.create(image.pod("warm"))
	s.create(image.pod("running"))
	s.awaitReady("warm")
	s.awaitReady("running")
	s.checkFiles("warm", image)
	if n := s.pulls(image) - before; n != 0 {
		t.Errorf("layers were pulled %d times that are in the cache", n)
	}
	if reasons := s.without("warm"); len(reasons) > 0 {
		t.Errorf("a pod that started from the cache has events %q", reasons)
	}

	for path, size := range s.cacheFiles(image) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		// All but what shows the controller whose file it is.
		if _, err := f.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	told := s.unused("Corrupt")
	s.checkFiles("running", image)
	s.start(image.pod("poisoned"))
	s.checkFiles("poisoned", image)
	for _, pod := range []string{"running", "poisoned"} {
		if said := s.awaitEvent(pod, "ImageCacheFailed"); !strings.Contains(said, "Corrupt") {
			t.Errorf("%s: event %q", pod, said)
		}
	}
	if s.pulls(image) == before || s.unused("Corrupt") < told+2 {
		t.Errorf("pulled %d times, reported %d times", s.pulls(image)-before, s.unused("Corrupt")-told)
	}
}

// TestImageCacheController is killed, and with it goes a file of the share: pods
// start without it. Of two that take its place one works, and the other one when
// that is killed, too.
func TestImageCacheController(t *testing.T) {
	needImageCache(t)
	s := newSpace(t)
	known := s.newCachedImage("known")
	s.start(known.pod("before"))
	s.awaitCached(known.name)

	s.kill(localcluster.ImageCache)
	files := s.cacheFiles(known)
	for path := range files {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	unknown := s.newCachedImage("unknown")
	s.create(known.pod("file-gone"))
	s.create(unknown.pod("nobody-fills"))
	for pod, want := range map[string]struct {
		image  *cachedImage
		reason string
	}{"file-gone": {known, "ImageCacheFailed"}, "nobody-fills": {unknown, "ImageCacheMissed"}} {
		s.awaitReady(pod)
		s.checkFiles(pod, want.image)
		s.awaitEvent(pod, want.reason)
	}

	second := s.anotherImageCache()
	s.startComponent(localcluster.ImageCache)
	s.awaitCached(unknown.name)
	s.eventually("the lost files are there again", func(context.Context) error {
		for path := range files {
			if _, err := os.Stat(path); err != nil {
				return err
			}
		}
		return nil
	})
	s.kill(localcluster.ImageCache)
	late := s.newCachedImage("late")
	s.start(late.pod("late"))
	s.awaitCached(late.name)
	second()
	s.startComponent(localcluster.ImageCache)
}

// anotherImageCache starts a second controller beside the cluster's own. It ends
// with the test, or when end is called.
func (s *space) anotherImageCache() (end func()) {
	s.Helper()
	cmd := exec.Command(filepath.Join(shared.Root, "bin", "kip"), "image-cache", "--provider-config="+filepath.Join(shared.Dir, "provider.yaml"),
		"--kubeconfig="+filepath.Join(shared.Dir, "image-cache.kubeconfig"), "--cluster-name="+shared.Name, "--namespace=kip", "--node-name="+localcluster.NodeName,
		"--share="+filepath.Join(shared.Dir, "image-cache", "share"), "--scratch="+s.TempDir(), "--health-listen=0", "--metrics-listen=0")
	cmd.Stderr = s.Output()
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	s.Cleanup(end)
	return end
}
