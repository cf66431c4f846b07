package controller

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// ready checks that an image is in the cache, whole.
func ready(t *testing.T, w *world, repository string, layers ...v1.Layer) v1beta1.CachedImage {
	t.Helper()
	image, ok := w.images(t)[repository]
	if !ok || !meta.IsStatusConditionTrue(image.Status.Conditions, v1beta1.ConditionReady) || len(image.Status.Layers) != len(layers) {
		t.Fatalf("%s is not in the cache: %+v", repository, image)
	}
	var size int64
	for i, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		diffID, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		got := image.Status.Layers[i]
		if got.Digest != digest.String() || got.DiffID != diffID.String() || got.Path != w.keys.Path(diffID.String()) {
			t.Errorf("layer %d of %s is %+v", i, repository, got)
		}
		if err := w.cfg.Share.Check(diffID.String()); err != nil {
			t.Errorf("the file of layer %d of %s: %v", i, repository, err)
		}
		size += layer.FileSize(got.Size)
	}
	if image.Status.Size != size || image.Name != v1beta1.CachedImageName(repository, image.Spec.Digest) {
		t.Errorf("%s has %d bytes and the name %s", repository, image.Status.Size, image.Name)
	}
	return image
}

func TestPodsImages(t *testing.T) {
	h := newHost(t, "registry.example.com")
	base, top := layerOf(t, "base"), layerOf(t, strings.Repeat("top", 100_000))
	arm := imageOf(t, layerOf(t, "arm"))
	image := imageOf(t, base, top)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	if err := remote.WriteIndex(h.at(t, "team/app:1"), index); err != nil {
		t.Fatal(err)
	}
	h.push(t, "team/other:1", imageOf(t, base))
	w := newWorld(t, h)
	if err := w.run(t, "web", "registry.example.com/team/app:1", "registry.example.com/team/other:1"); err != nil {
		t.Fatal(err)
	}
	got := ready(t, w, "registry.example.com/team/app", base, top)
	digest, err := image.Digest()
	if err != nil || got.Spec.Digest != digest.String() || got.Spec.Architecture != "amd64" {
		t.Errorf("the image is %+v, error %v", got.Spec, err)
	}
	ready(t, w, "registry.example.com/team/other", base)
	if n := h.sent(base); n != 1 {
		t.Errorf("the layer of two images was pulled %d times", n)
	}
	if e := w.event(); e != "" {
		t.Errorf("event %s", e)
	}

	// Another pod, later: nothing is pulled, and the use is noted.
	w.clock.Step(time.Hour)
	if err := w.run(t, "web-2", "registry.example.com/team/app:1"); err != nil {
		t.Fatal(err)
	}
	again := ready(t, w, "registry.example.com/team/app", base, top)
	if h.sent(top) != 1 || !again.Status.LastUsed.Time.Equal(w.clock.Now()) {
		t.Errorf("pulled %d times, last used at %s", h.sent(top), again.Status.LastUsed)
	}
	// A tag that is given to another image.
	moved := layerOf(t, "moved")
	h.push(t, "team/app:1", imageOf(t, moved))
	if err := w.look(t, "web"); err != nil || h.sent(moved) != 1 {
		t.Errorf("the new image was pulled %d times, error %v", h.sent(moved), err)
	}
}

// TestHerd: many pods with one image come at once.
func TestHerd(t *testing.T) {
	h := newHost(t, "registry.example.com")
	only := layerOf(t, strings.Repeat("herd", 100_000))
	h.push(t, "team/app:1", imageOf(t, only))
	w := newWorld(t, h)
	var pods sync.WaitGroup
	for i := range 50 {
		pods.Go(func() {
			if err := w.run(t, "web-"+string(rune('a'+i/26))+string(rune('a'+i%26)), "registry.example.com/team/app:1"); err != nil {
				t.Error(err)
			}
		})
	}
	pods.Wait()
	ready(t, w, "registry.example.com/team/app", only)
	if n := h.sent(only); n != 1 {
		t.Errorf("pulled %d times", n)
	}
}

func TestPrivate(t *testing.T) {
	h := newHost(t, "registry.example.com")
	secret := layerOf(t, "secret")
	h.private["team/app"] = true
	h.push(t, "team/app:1", imageOf(t, secret))
	w := newWorld(t, h)
	if err := w.run(t, "without", "registry.example.com/team/app:1"); err == nil {
		t.Error("no error")
	}
	if e := w.event(); !strings.HasPrefix(e, "Warning ImageNotCached") || !strings.Contains(e, "registry.example.com/team/app:1") {
		t.Errorf("event %q", e)
	}
	if n := len(w.images(t)); n != 0 {
		t.Errorf("%d images in the cache", n)
	}
	w.login(t, "elsewhere.example.com")
	if err := w.look(t, "without"); err == nil {
		t.Error("no error with a login of another registry")
	}
	w.login(t, "registry.example.com")
	if err := w.run(t, "with", "registry.example.com/team/app:1"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "registry.example.com/team/app", secret)
}

// TestCloudsRegistry: pods need no pull secret for it.
func TestCloudsRegistry(t *testing.T) {
	h := newHost(t, "registry.example.com")
	only := layerOf(t, "only")
	h.private["team/app"] = true
	h.push(t, "team/app:1", imageOf(t, only))
	w := newWorld(t, h)
	w.cloud, w.noCloud = h.name, errors.New("AccessDenied: ecr:GetAuthorizationToken")
	if err := w.run(t, "web", "registry.example.com/team/app:1"); err == nil {
		t.Error("no login, and no error")
	}
	if e := w.event(); !strings.Contains(e, "ecr:GetAuthorizationToken") {
		t.Errorf("event %q does not say what is missing", e)
	}
	w.noCloud = nil
	if err := w.look(t, "web"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "registry.example.com/team/app", only)
}

// TestForeignLayer: somebody's registry names a layer that it does not have.
func TestForeignLayer(t *testing.T) {
	victim, attacker, honest := newHost(t, "victim.example.com"), newHost(t, "attacker.example.com"), newHost(t, "honest.example.com")
	secret := layerOf(t, "secret")
	image := imageOf(t, secret)
	victim.push(t, "team/app:1", image)
	honest.push(t, "team/app:1", image)
	// The attacker knows the digests: it has the manifest and the configuration,
	// and says yes to whether it has a layer.
	if err := remote.Put(attacker.at(t, "my/app:1"), image); err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteLayer(attacker.at(t, "my/app:1").Context(), staticLayer{config}); err != nil {
		t.Fatal(err)
	}
	attacker.claims = true
	w := newWorld(t, victim, attacker, honest)
	if err := w.run(t, "web", "victim.example.com/team/app:1"); err != nil {
		t.Fatal(err)
	}
	if err := w.run(t, "evil", "attacker.example.com/my/app:1"); err == nil {
		t.Error("no error")
	}
	if got := w.images(t)["attacker.example.com/my/app"].Status; len(got.Layers) > 0 || got.FetchedBy != nil || attacker.sent(secret) == 0 {
		t.Errorf("the attacker's image is in the cache, or the attacker was not asked for the layer (%d times): %+v", attacker.sent(secret), got)
	}
	// A registry that has it is believed when it has sent it.
	if err := w.run(t, "copy", "honest.example.com/team/app:1"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "honest.example.com/team/app", secret)
	if n := honest.sent(secret); n != 1 {
		t.Errorf("it was asked for the layer %d times", n)
	}
	// Its other repositories are believed by its word, for which it is asked.
	honest.push(t, "team/fork:1", image)
	before := honest.heads
	if err := w.run(t, "fork", "honest.example.com/team/fork:1"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "honest.example.com/team/fork", secret)
	if honest.sent(secret) != 1 || honest.heads == before {
		t.Errorf("it was asked for the layer %d times, and %d times whether it has it", honest.sent(secret), honest.heads-before)
	}
}

func TestNotCacheable(t *testing.T) {
	h := newHost(t, "registry.example.com")
	for name, tc := range map[string]struct {
		reason string
		image  v1.Image
	}{
		"hard-link":   {"to a file beneath", imageOf(t, layerOf(t, "a", tar.Header{Typeflag: tar.TypeLink, Name: "x", Linkname: "beneath"}))},
		"implied":     {"a directory that the layers beneath describe", imageOf(t, layerOf(t, "a"), layerOf(t, "b", tar.Header{Typeflag: tar.TypeReg, Name: "tmp/x"}))},
		"no-diff-ids": {"an image that says nothing of its layers", noDiffIDs(t, imageOf(t, layerOf(t, "a")))},
	} {
		t.Run(name, func(t *testing.T) {
			h.push(t, name+":1", tc.image)
			w := newWorld(t, h)
			for i, pod := range []string{"web", "web-2"} {
				if err := w.run(t, pod, "registry.example.com/"+name+":1"); err != nil {
					t.Errorf("%s: it is tried again: %v", tc.reason, err)
				}
				if e := w.event(); !strings.HasPrefix(e, "Normal ImageNotCacheable") {
					t.Errorf("%s: pod %d has event %q", tc.reason, i, e)
				}
			}
			image := w.images(t)["registry.example.com/"+name]
			if c := meta.FindStatusCondition(image.Status.Conditions, v1beta1.ConditionReady); c == nil || c.Status != "False" || c.Reason != v1beta1.ReasonNotCacheable || len(image.Status.Layers) > 0 {
				t.Errorf("%s: %+v", tc.reason, image.Status)
			}
		})
	}
	// As the lowest layer the same archive may be used.
	h.push(t, "lowest:1", imageOf(t, layerOf(t, "b", tar.Header{Typeflag: tar.TypeReg, Name: "tmp/x"})))
	w := newWorld(t, h)
	if err := w.run(t, "web", "registry.example.com/lowest:1"); err != nil || !w.images(t)["registry.example.com/lowest"].Status.Layers[0].LowestOnly {
		t.Errorf("error %v", err)
	}
	if err := w.run(t, "web-2", "registry.example.com/implied:1"); err != nil || len(w.images(t)["registry.example.com/implied"].Status.Layers) > 0 {
		t.Errorf("it is used above another layer, error %v", err)
	}
}

func noDiffIDs(t *testing.T, image v1.Image) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.RootFS.DiffIDs = nil
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestCrash: a controller ends after it made files and before it wrote that down.
func TestCrash(t *testing.T) {
	h := newHost(t, "registry.example.com")
	only := layerOf(t, "only")
	h.push(t, "team/app:1", imageOf(t, only))
	w := newWorld(t, h)
	if err := w.run(t, "web", "registry.example.com/team/app:1"); err != nil {
		t.Fatal(err)
	}
	image := ready(t, w, "registry.example.com/team/app", only)
	file := filepath.Join(w.share, image.Status.Layers[0].Path)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.api.Delete(t.Context(), &image); err != nil {
		t.Fatal(err)
	}
	w.restart(t, h)
	if err := w.look(t, "web"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "registry.example.com/team/app", only)
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("a good file was made again, error %v", err)
	}
}

// TestDamaged: the share loses a file, or somebody writes another one.
func TestDamaged(t *testing.T) {
	h := newHost(t, "registry.example.com")
	only := layerOf(t, "only")
	h.push(t, "team/app:1", imageOf(t, only))
	w := newWorld(t, h)
	if err := w.run(t, "web", "registry.example.com/team/app:1"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.share, ready(t, w, "registry.example.com/team/app", only).Status.Layers[0].Path)
	for name, damage := range map[string]func() error{
		"Lost":   func() error { return os.Remove(file) },
		"Forged": func() error { return os.WriteFile(file, make([]byte, 10_000), 0o600) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := w.look(t, "web"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		ready(t, w, "registry.example.com/team/app", only)
	}
}

func TestTrouble(t *testing.T) {
	h := newHost(t, "registry.example.com")
	big := layerOf(t, strings.Repeat("a", 1<<20))
	h.push(t, "team/app:1", imageOf(t, big))
	w := newWorld(t, h)
	h.set(func() { h.trouble = true })
	if err := w.run(t, "web", "registry.example.com/team/app:1"); err == nil {
		t.Error("the registry does not work, and there is no error")
	}
	h.set(func() { h.trouble, h.cut = false, true })
	if err := w.look(t, "web"); err == nil || len(w.images(t)) > 0 {
		t.Errorf("half a layer came: %v", err)
	}
	pulls := h.sent(big)
	if err := w.look(t, "web"); err == nil || h.sent(big) != pulls {
		t.Errorf("it is tried again at once: %v", err)
	}
	h.set(func() { h.cut = false })
	w.clock.Step(restFor)
	if err := w.look(t, "web"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "registry.example.com/team/app", big)
}

// TestFullShare: the share has no room. Nobody waits for the image, and it gets
// there when there is room.
func TestFullShare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	h := newHost(t, "registry.example.com")
	small, big := layerOf(t, "small"), layerOf(t, strings.Repeat("a", 2<<20))
	h.push(t, "team/app:1", imageOf(t, small, big))
	w := newWorld(t, h)
	if err := unix.Mount("tmpfs", w.share, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(w.share, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w.restart(t, h)
	if err := w.run(t, "web", "registry.example.com/team/app:1"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("there is no room, and it says %v", err)
	}
	if e := w.event(); !strings.HasPrefix(e, "Warning ImageNotCached") || !strings.Contains(e, "no space left") {
		t.Errorf("event %q", e)
	}
	if reason, n, by := condition(t, w); reason != v1beta1.ReasonNotFetched || n != 1 || !by.IsZero() {
		t.Errorf("%s, %d layers, cells wait until %s", reason, n, by)
	}
	if left, err := os.ReadDir(filepath.Join(w.share, "v1/tmp")); err != nil || len(left) > 0 {
		t.Errorf("half a file is left: %v, %v", left, err)
	}
	if err := unix.Mount("", w.share, "", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(restFor)
	if err := w.look(t, "web"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, "registry.example.com/team/app", small, big)
}

// TestPodsThatDoNotCount have ended, or are no more.
func TestPodsThatDoNotCount(t *testing.T) {
	w := newWorld(t)
	if err := w.look(t, "gone"); err != nil {
		t.Error(err)
	}
	if err := w.run(t, "odd", "NOT AN IMAGE"); err != nil {
		t.Errorf("it is tried again: %v", err)
	}
	if err := w.run(t, "none"); err != nil {
		t.Error(err)
	}
}

// TestTwoControllers believe for a moment that they are the only one.
func TestTwoControllers(t *testing.T) {
	h := newHost(t, "registry.example.com")
	only := layerOf(t, strings.Repeat("two", 100_000))
	h.push(t, "team/app:1", imageOf(t, only))
	w := newWorld(t, h)
	first := w.Controller
	w.restart(t, h)
	second := w.Controller
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i, c := range []*Controller{first, second} {
		both.Go(func() { errs[i] = c.ensure(t.Context(), "registry.example.com/team/app:1", nil) })
	}
	both.Wait()
	// One of them may have come too late with its object; it looks again.
	if errs[0] != nil && errs[1] != nil {
		t.Fatal(errors.Join(errs...))
	}
	for _, c := range []*Controller{first, second} {
		if err := c.ensure(t.Context(), "registry.example.com/team/app:1", nil); err != nil {
			t.Error(err)
		}
	}
	ready(t, w, "registry.example.com/team/app", only)
}
