package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

const (
	nfsImage      = "docker.io/elotl/kip-e2e-nfs:latest"
	poisonedImage = "docker.io/elotl/kip-e2e-poisoned:latest"
	// noiseBytes is the size of a file of these images, of which each has one in
	// each of its layers, and another one beside it.
	noiseBytes = 8 << 20
	noiseFiles = 4
)

// Cells mount the image cache's share by NFS: a pod starts from a part of its
// image, reads on when the server was restarted and when it hangs, and what was
// changed on the share is not used.
func TestImageCacheByNFS(t *testing.T) {
	if shared.Cells != localcluster.CellsVM || !shared.ImageCache {
		t.Skip("it takes cells with a kernel of their own, and an image cache: make test-nfs")
	}
	s := newSpace(t)
	sums := map[string][]string{}
	for _, image := range []string{nfsImage, poisonedImage} {
		sums[image] = s.pushNoise(image)
	}
	s.fillCache(nfsImage, poisonedImage)
	s.poison(poisonedImage)

	s.create(newPod("mounted", reading(nfsImage)))
	pod := s.awaitReady("mounted")
	received, err := shared.Received(s.cellOf(pod).Status.InstanceID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the cell has received %.1f MB; the image has %.1f MB", float64(received)/1e6, float64(noiseFiles*noiseBytes)/1e6)
	if received > noiseFiles*noiseBytes/2 {
		t.Error("the cell has received more than half of its image, of which its pod reads a small part")
	}
	if failures := s.cacheEvents("mounted"); len(failures) > 0 {
		t.Errorf("nothing was in the way of the cache, and yet: %q", failures)
	}

	check := func(pod, image string, file int, when string) {
		t.Helper()
		out := s.kubectl("exec", pod, "--", "sha256sum", noiseFile(file))
		if sum, _, _ := strings.Cut(out, " "); sum != sums[image][file] {
			t.Errorf("%s: %s has the SHA-256 %s, want %s", when, noiseFile(file), sum, sums[image][file])
		}
	}
	// One computer after the other: emulated, two would wait for each other.
	s.start(newPod("poisoned", reading(poisonedImage)))
	check("poisoned", poisonedImage, 0, "although the share has other bytes")
	if events := s.cacheEvents("poisoned"); !slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, "(Corrupt)") }) {
		t.Errorf("none of the pod's events says that the share has other bytes: %q", events)
	}
	if n, err := metric(t.Context(), `kip_image_cache_unused_total{reason="Corrupt"}`); err != nil || n < 1 {
		t.Errorf("the metric counts %v layers that were changed, %v", n, err)
	}

	if err := shared.Kill(localcluster.NFSServer); err != nil {
		t.Fatal(err)
	}
	if err := shared.Start(t.Context(), localcluster.NFSServer); err != nil {
		t.Fatal(err)
	}
	check("mounted", nfsImage, 0, "after a restart of the server")

	s.freeze(localcluster.NFSServer)
	check("mounted", nfsImage, 3, "while the server hangs")
	s.eventually("an event says that the share does not answer", func(context.Context) error {
		events := s.cacheEvents("mounted")
		if !slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, "(Slow)") }) {
			return fmt.Errorf("there are %q", events)
		}
		return nil
	})
}

func noiseFile(n int) string { return fmt.Sprintf("/noise/%d", n) }

// pushNoise makes an image of busybox and files of noise, two in each layer, and
// returns the files' sums.
func (s *space) pushNoise(name string) (sums []string) {
	s.Helper()
	image := images[busyboxImage]
	noise := rand.NewChaCha8(sha256.Sum256([]byte(name)))
	for layer := range noiseFiles / 2 {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "noise/", Mode: 0o755})
		for file := range 2 {
			content := make([]byte, noiseBytes)
			_, _ = noise.Read(content) // never fails
			sum := sha256.Sum256(content)
			sums = append(sums, hex.EncodeToString(sum[:]))
			header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(noiseFile(2*layer+file), "/"), Mode: 0o644, Size: noiseBytes}
			err = errors.Join(err, w.WriteHeader(header))
			if err == nil {
				_, err = w.Write(content)
			}
		}
		if err := errors.Join(err, w.Close()); err != nil {
			s.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, static.NewLayer(archive.Bytes(), types.OCIUncompressedLayer)); err != nil {
			s.Fatal(err)
		}
	}
	if err := shared.Push(s.Context(), image, name); err != nil {
		s.Fatal(err)
	}
	return sums
}

// reading is a container that reads a little of its image and lives on.
func reading(image string) corev1.Container {
	c := small("main", image)
	// Of half a gigabyte a computer with all of a cell's programs has little left.
	c.Resources = requests("500m", "1Gi")
	c.Command = []string{"sh", "-c", "head -c 100000 " + noiseFile(1) + " >/dev/null && " + forever}
	return c
}

// fillCache has images in the cache, by a pod that has them, which need not
// start.
func (s *space) fillCache(names ...string) {
	s.Helper()
	var containers []corev1.Container
	for i, image := range names {
		c := reading(image)
		c.Name = fmt.Sprintf("c%d", i)
		containers = append(containers, c)
	}
	s.create(newPod("fill", containers...))
	for _, image := range names {
		s.eventually(image+" is in the image cache", func(ctx context.Context) error {
			cached, err := shared.Cached(ctx, image)
			if err == nil && !cached {
				err = errors.New("it is not")
			}
			return err
		})
	}
	s.delete("fill")
}

// poison changes a byte at the beginning of each of the image's files on the
// share.
func (s *space) poison(image string) {
	s.Helper()
	repository, _, _ := strings.Cut(image, ":")
	var cached v1beta1.CachedImageList
	if err := shared.cells.List(s.Context(), &cached); err != nil {
		s.Fatal(err)
	}
	changed := 0
	for _, i := range cached.Items {
		if i.Spec.Repository != repository {
			continue
		}
		for _, l := range i.Status.Layers {
			if l.Size < noiseBytes {
				continue // busybox, which the other image has too
			}
			f, err := os.OpenFile(filepath.Join(shared.Dir, "image-cache", "share", l.Path), os.O_RDWR, 0)
			if err != nil {
				s.Fatal(err)
			}
			// EROFS' superblock, which is read first, begins there.
			const at = 1024
			b := make([]byte, 1)
			_, err = f.ReadAt(b, at)
			b[0] ^= 1
			if err == nil {
				_, err = f.WriteAt(b, at)
			}
			if err := errors.Join(err, f.Close()); err != nil {
				s.Fatal(err)
			}
			changed++
		}
	}
	if changed != noiseFiles/2 {
		s.Fatalf("the cache has %d layers of %s, want %d", changed, image, noiseFiles/2)
	}
}

// freeze stops a component as a hang would, until the test ends.
func (s *space) freeze(component string) {
	s.Helper()
	states, err := shared.Status(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	i := slices.IndexFunc(states, func(c localcluster.ComponentStatus) bool { return c.Name == component && c.Running })
	if i < 0 {
		s.Fatalf("%s does not run", component)
	}
	if err := syscall.Kill(states[i].PID, syscall.SIGSTOP); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := syscall.Kill(states[i].PID, syscall.SIGCONT); err != nil {
			s.Error(err)
		}
	})
}

// cacheEvents are what the pod's events say of the image cache.
func (s *space) cacheEvents(pod string) (messages []string) {
	s.Helper()
	events, err := shared.kube.CoreV1().Events(s.name).List(s.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		s.Fatal(err)
	}
	for _, e := range events.Items {
		if strings.HasPrefix(e.Reason, "ImageCache") {
			messages = append(messages, e.Message)
		}
	}
	return messages
}
