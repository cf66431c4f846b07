package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/imagecache/convert"
	"github.com/elotl/kip/v2/internal/imagecache/fuse"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/imagecache/settings"
)

// TestMain lets this binary play kip-snapshotter, as a process that can be
// killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == MountCommand {
		if err := MountLayer(os.Args[2], os.Args[3]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	path := os.Getenv("KIP_TEST_SETTINGS")
	if path == "" {
		os.Exit(m.Run())
	}
	var set settings.Settings
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &set)
	}
	if err == nil {
		os.Unsetenv("KIP_TEST_SETTINGS")
		unix.CloseOnExec(settings.LayersDescriptor)
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		err = Run(ctx, set, os.NewFile(settings.LayersDescriptor, "fuse"), os.Args[0], slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const snapshotterName = "kip"

// cell is what a cell has for its images: containerd and the snapshotter beside
// it, a share, a registry and Kip.
type cell struct {
	t        *testing.T
	dir      string
	settings settings.Settings
	device   *os.File
	tools    string

	snapshotter *exec.Cmd

	// host is the registry's.
	host string

	mu sync.Mutex
	// blobs counts downloads of layers' archives by digest.
	blobs map[string]int
	// granted are Kip's answers; questions counts them.
	granted   map[grant.Question]grant.Answer
	questions int
	reports   []grant.Report
	// silent makes Kip answer nothing.
	silent bool
}

func newCell(t *testing.T) *cell {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this machine has no /dev/fuse")
	}
	tools, err := filepath.Abs("../../../.cache/tools/bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(tools, "containerd")); err != nil {
		t.Skip("containerd is not built: make tools")
	}
	// A short path: sockets are in it.
	dir, err := os.MkdirTemp("", "kip-cell-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cell{t: t, dir: dir, tools: tools, blobs: map[string]int{}, granted: map[grant.Question]grant.Answer{}}
	t.Cleanup(c.removeAll)
	for _, d := range []string{"layers", "share"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.serveRegistry()
	c.serveKip()
	if c.device, err = fuse.Mount(filepath.Join(dir, "layers")); err != nil {
		t.Fatal(err)
	}
	c.settings = settings.Settings{
		Socket: filepath.Join(dir, "snapshotter.sock"), Agent: filepath.Join(dir, "agent.sock"),
		Dir: filepath.Join(dir, "snapshotter"), Layers: filepath.Join(dir, "layers"), Share: filepath.Join(dir, "share"),
		// A registry of plain HTTP is asked where it is a mirror.
		Mirrors: map[string][]string{c.host: {"http://" + c.host}},
	}
	data, err := json.Marshal(c.settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "settings.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.startSnapshotter()
	c.startContainerd()
	return c
}

// removeAll unmounts what is mounted below the cell's directory, what is mounted
// last first, and what is served by force, so that nobody hangs.
func (c *cell) removeAll() {
	for range 3 {
		mounted, err := mountedBelow(c.dir)
		if err != nil {
			c.t.Error(err)
		}
		for _, dir := range slices.Backward(slices.Sorted(maps.Keys(mounted))) {
			flags := unix.MNT_DETACH
			if strings.HasSuffix(dir, "/layers") {
				flags |= unix.MNT_FORCE
			}
			_ = unix.Unmount(dir, flags)
		}
	}
	if c.device != nil {
		c.device.Close()
	}
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Error(err)
	}
}

// serveRegistry starts a registry that counts.
func (c *cell) serveRegistry() {
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, digest, ok := strings.Cut(r.URL.Path, "/blobs/"); ok && r.Method == http.MethodGet {
			c.mu.Lock()
			c.blobs[digest]++
			c.mu.Unlock()
		}
		images.ServeHTTP(w, r)
	}))
	c.t.Cleanup(server.Close)
	c.host = strings.TrimPrefix(server.URL, "http://")
}

// serveKip answers as the agent does for Kip.
func (c *cell) serveKip() {
	listener, err := net.Listen("unix", filepath.Join(c.dir, "agent.sock"))
	if err != nil {
		c.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+grant.Path, func(w http.ResponseWriter, r *http.Request) {
		var q grant.Question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			c.t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.questions++
		if c.silent {
			http.Error(w, "Kip cannot be asked", http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(c.granted[q])
	})
	mux.HandleFunc("POST "+grant.ReportPath, func(_ http.ResponseWriter, r *http.Request) {
		var report grant.Report
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			c.t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.reports = append(c.reports, report)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	c.t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
}

// startSnapshotter starts the snapshotter as the agent does, and waits until it
// answers.
func (c *cell) startSnapshotter() {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KIP_TEST_SETTINGS="+filepath.Join(c.dir, "settings.json"))
	cmd.ExtraFiles = []*os.File{c.device}
	log, err := os.OpenFile(filepath.Join(c.dir, "snapshotter.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	_ = os.Remove(c.settings.Socket)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.snapshotter = cmd
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c.awaitSocket(c.settings.Socket, "snapshotter.log")
}

func (c *cell) killSnapshotter() {
	_ = c.snapshotter.Process.Kill()
	_ = c.snapshotter.Wait()
}

func (c *cell) awaitSocket(socket, log string) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(filepath.Join(c.dir, log))
			c.t.Fatalf("%s: %v\n%s", socket, err, said)
		}
	}
}

func (c *cell) startContainerd() {
	c.t.Helper()
	config := fmt.Sprintf(`version = 3
root = '%[1]s/containerd'
state = '%[1]s/containerd-state'
imports = []
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri', 'io.containerd.internal.v1.opt']
[grpc]
address = '%[1]s/containerd.sock'
[ttrpc]
address = '%[1]s/containerd.sock.ttrpc'
[proxy_plugins.kip]
type = 'snapshot'
address = '%[2]s'
[proxy_plugins.kip.exports]
enable_remote_snapshot_annotations = 'true'
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
platform = 'linux'
snapshotter = 'kip'
`, c.dir, c.settings.Socket)
	path := filepath.Join(c.dir, "containerd.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(c.tools, "containerd"), "--config", path)
	log, err := os.Create(filepath.Join(c.dir, "containerd.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	c.awaitSocket(filepath.Join(c.dir, "containerd.sock"), "containerd.log")
}

// ctr runs containerd's client.
func (c *cell) ctr(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.tools, "ctr"), append([]string{"--address", filepath.Join(c.dir, "containerd.sock"), "-n", "k8s.io"}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pull pulls an image and mounts it; the files are below the returned directory.
func (c *cell) pull(image, dir string) string {
	c.t.Helper()
	if said, err := c.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotterName, image); err != nil {
		c.t.Fatalf("pulling: %v\n%s%s", err, said, c.logs())
	}
	return c.mount(image, dir)
}

func (c *cell) mount(image, dir string) string {
	c.t.Helper()
	dir = filepath.Join(c.dir, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	if said, err := c.ctr("images", "mount", "--rw", "--snapshotter", snapshotterName, image, dir); err != nil {
		c.t.Fatalf("mounting: %v\n%s%s", err, said, c.logs())
	}
	return dir
}

func (c *cell) logs() string {
	a, _ := os.ReadFile(filepath.Join(c.dir, "snapshotter.log"))
	b, _ := os.ReadFile(filepath.Join(c.dir, "containerd.log"))
	return string(a) + "\n" + string(b[max(0, len(b)-4000):])
}

// downloads is how often layers of the image were fetched from the registry.
func (c *cell) downloads(image testImage) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, l := range image.layers {
		n += c.blobs[l.Digest]
	}
	return n
}

// reasons waits for as many reports as are wanted and returns all.
func (c *cell) reasons(want int) []string {
	c.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		var reasons []string
		for _, r := range c.reports {
			reasons = append(reasons, r.Reason)
		}
		c.mu.Unlock()
		if len(reasons) >= want || time.Now().After(deadline) {
			return reasons
		}
	}
}

// testImage is an image in the registry and in the cache.
type testImage struct {
	ref      string
	question grant.Question
	layers   []layer.Layer
	// files are what must be seen, by name.
	files map[string][]byte
}

// fileSize is that of the large file of each layer.
const fileSize = 512 << 10

// image makes an image of three layers, pushes it, puts it into the cache and
// has Kip grant it.
func (c *cell) image(repository string) testImage {
	c.t.Helper()
	made := testImage{ref: c.host + "/" + repository + ":1", files: map[string][]byte{}}
	img := empty.Image
	for i := range 3 {
		content := make([]byte, fileSize)
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte(repository + fmt.Sprint(i)))).Read(content)
		files := map[string][]byte{fmt.Sprintf("data/%d", i): content, "top": []byte(fmt.Sprint(i))}
		if i == 2 {
			files["data/.wh.1"] = nil
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive(files))), nil })
		if err != nil {
			c.t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			c.t.Fatal(err)
		}
		made.files[fmt.Sprintf("data/%d", i)] = content
	}
	delete(made.files, "data/1")
	made.files["top"] = []byte("2")
	config, err := img.ConfigFile()
	if err != nil {
		c.t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		c.t.Fatal(err)
	}
	ref, err := name.ParseReference(made.ref)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		c.t.Fatal(err)
	}
	manifest, err := img.Digest()
	if err != nil {
		c.t.Fatal(err)
	}
	made.question = grant.Question{Image: made.ref, Manifest: manifest.String()}
	layers, err := img.Layers()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, l := range layers {
		made.layers = append(made.layers, c.store(l))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.granted[made.question] = grant.Answer{Layers: made.layers}
	return made
}

func archive(files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "data/", Mode: 0o755, Typeflag: tar.TypeDir})
	for _, name := range slices.Sorted(maps.Keys(files)) {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(files[name]))})
		_, _ = w.Write(files[name])
	}
	_ = w.Close()
	return b.Bytes()
}

// store puts a layer on the share.
func (c *cell) store(l v1.Layer) layer.Layer {
	c.t.Helper()
	compressed, err := l.Compressed()
	if err != nil {
		c.t.Fatal(err)
	}
	defer compressed.Close()
	scratch := c.t.TempDir()
	system, err := os.Create(filepath.Join(scratch, "system"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer system.Close()
	result, err := convert.Convert(c.t.Context(), system, compressed, scratch)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := system.Seek(0, io.SeekStart); err != nil {
		c.t.Fatal(err)
	}
	granted := layer.Layer{Digest: result.Digest, DiffID: result.DiffID, Path: strings.ReplaceAll(result.Digest, ":", "-"), Key: layer.Key{3}}
	file, err := os.Create(c.shared(granted))
	if err != nil {
		c.t.Fatal(err)
	}
	if granted.Root, granted.Size, err = layer.Write(file, system, granted.Key); err != nil {
		c.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		c.t.Fatal(err)
	}
	return granted
}

// shared is a layer's file on the share.
func (c *cell) shared(l layer.Layer) string { return filepath.Join(c.dir, "share", l.Path) }

// check reads all of the image's files.
func (c *cell) check(image testImage, dir string) {
	c.t.Helper()
	for name, want := range image.files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			c.t.Errorf("%s: %d bytes of %d, %v\n%s", name, len(got), len(want), err, c.logs())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data/1")); !os.IsNotExist(err) {
		c.t.Errorf("what an upper layer removed is there: %v", err)
	}
}

func TestPullFromCache(t *testing.T) {
	c := newCell(t)
	image := c.image("app")
	dir := c.pull(image.ref, "image")
	c.check(image, dir)
	if n := c.downloads(image); n != 0 {
		t.Errorf("%d layers were downloaded that the cache has\n%s", n, c.logs())
	}
	if c.questions != 1 {
		t.Errorf("Kip was asked %d times for one pull", c.questions)
	}
	if err := os.WriteFile(filepath.Join(dir, "data/0"), []byte("mine"), 0o600); err != nil {
		t.Errorf("writing over a file of the image: %v", err)
	}
	if got := c.reasons(0); len(got) != 0 {
		t.Errorf("reports %v", got)
	}
	// The image and all that is mounted for it goes as it came.
	for _, args := range [][]string{{"images", "unmount", "--rm", "--snapshotter", snapshotterName, dir}, {"images", "rm", "--sync", image.ref}} {
		if said, err := c.ctr(args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, said)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		mounted, err := mountedBelow(c.settings.Dir)
		left, _ := os.ReadDir(filepath.Join(c.settings.Dir, "snapshots"))
		if err == nil && len(mounted) == 0 && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v, %v, %v\n%s", mounted, left, err, c.logs())
		}
	}
}

// TestWithoutCache: whatever is wrong with the cache, the image is pulled as
// ever, and Kip hears why.
func TestWithoutCache(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		fault  func(c *cell, image *testImage)
		// downloads is how many of the three layers come from the registry.
		downloads int
		reports   []string
	}{
		"Empty": {
			reason: "the cache does not have the image, or the pod may not have it from there",
			fault:  func(c *cell, image *testImage) { delete(c.granted, image.question) }, downloads: 3,
			reports: []string{grant.NotCached},
		},
		"KipAway": {
			reason: "nobody says what may be used",
			fault:  func(c *cell, _ *testImage) { c.silent = true }, downloads: 3,
			reports: []string{grant.Unanswered},
		},
		"Unmounted": {
			reason: "the share is not there",
			fault:  func(c *cell, _ *testImage) { _ = os.RemoveAll(filepath.Join(c.dir, "share")) }, downloads: 3,
			reports: []string{grant.Unreachable, grant.Unreachable, grant.Unreachable},
		},
		"Poisoned": {
			reason: "one layer's file has a changed byte in its first block: it is pulled, and containerd pulls all above it",
			fault: func(c *cell, image *testImage) {
				path := c.shared(image.layers[1])
				data, _ := os.ReadFile(path)
				data[2000] ^= 1
				_ = os.WriteFile(path, data, 0o600)
			},
			downloads: 2, reports: []string{grant.Corrupt},
		},
		"Full": {
			reason: "a file on a full share is shorter than it should be",
			fault: func(c *cell, image *testImage) {
				_ = os.Truncate(c.shared(image.layers[0]), 1000)
			},
			downloads: 3, reports: []string{grant.Corrupt},
		},
		"OtherLayers": {
			reason: "a hostile manifest names layers whose content is not what its configuration says",
			fault: func(c *cell, image *testImage) {
				answer := c.granted[image.question]
				answer.Layers = slices.Clone(answer.Layers)
				answer.Layers[0].DiffID, answer.Layers[1].DiffID = answer.Layers[1].DiffID, answer.Layers[0].DiffID
				c.granted[image.question] = answer
			},
			downloads: 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			image := c.image("app")
			c.mu.Lock()
			tc.fault(c, &image)
			c.mu.Unlock()
			c.check(image, c.pull(image.ref, "image"))
			if n := c.downloads(image); n != tc.downloads {
				t.Errorf("%s: %d downloads, want %d\n%s", tc.reason, n, tc.downloads, c.logs())
			}
			if diff := cmp.Diff(tc.reports, c.reasons(len(tc.reports))); diff != "" {
				t.Errorf("%s: reports (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestCacheGoesAwayInMidRun: a pod that runs from the cache does not notice.
func TestCacheGoesAwayInMidRun(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		fault  func(path string) error
		report string
	}{
		"Poisoned": {
			reason: "somebody writes to files that are in use",
			fault:  func(path string) error { return os.WriteFile(path, make([]byte, 4<<20), 0o600) }, report: grant.Corrupt,
		},
		"Shortened": {reason: "and cuts them off", fault: func(path string) error { return os.Truncate(path, 0) }, report: grant.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			image := c.image("app")
			dir := c.pull(image.ref, "image")
			for _, l := range image.layers {
				if err := tc.fault(c.shared(l)); err != nil {
					t.Fatal(err)
				}
			}
			c.check(image, dir)
			// The middle layer's file is hidden, so its content is not read.
			if n := c.downloads(image); n < 2 || n > 3 {
				t.Errorf("%s: %d downloads", tc.reason, n)
			}
			for _, reason := range c.reasons(2) {
				if reason != tc.report {
					t.Errorf("%s: reported %s", tc.reason, reason)
				}
			}
		})
	}
}

// TestSnapshotterKilled: what runs from the cache lives through the snapshotter's
// death, in the middle of reading, and so does what the snapshotter knew.
func TestSnapshotterKilled(t *testing.T) {
	c := newCell(t)
	image := c.image("app")
	dir := c.pull(image.ref, "image")
	var readers sync.WaitGroup
	for range 3 {
		for name, want := range image.files {
			readers.Go(func() {
				// Another process: it may hang for as long as nobody serves.
				out, err := exec.Command("sha256sum", filepath.Join(dir, name)).CombinedOutput()
				if err != nil || !strings.HasPrefix(string(out), fmt.Sprintf("%x ", sha256.Sum256(want))) {
					t.Errorf("%s: %v: %s", name, err, out)
				}
			})
		}
		c.killSnapshotter()
		c.startSnapshotter()
	}
	readers.Wait()
	c.check(image, dir)
	c.check(image, c.mount(image.ref, "second"))
	other := c.image("other")
	c.check(other, c.pull(other.ref, "other"))
	if n := c.downloads(image) + c.downloads(other); n != 0 {
		t.Errorf("%d downloads", n)
	}
}

// TestManyStarts: containers of one image start side by side.
func TestManyStarts(t *testing.T) {
	c := newCell(t)
	image := c.image("app")
	var starts sync.WaitGroup
	for i := range 12 {
		starts.Go(func() { c.check(image, c.pull(image.ref, fmt.Sprint("start", i))) })
	}
	starts.Wait()
	if n := c.downloads(image); n != 0 {
		t.Errorf("%d downloads", n)
	}
	if c.questions != 1 {
		t.Errorf("Kip was asked %d times", c.questions)
	}
}
